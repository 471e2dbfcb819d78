-- name: retain_mailboxes
-- Lets old entries go, a few mailboxes a call; answers with how many went. See the function.
SELECT notify.retain_mailboxes(now() - make_interval(secs => $1), $2, $3)

-- name: retain_notifications
-- Deletes old notifications that no mailbox holds any more, with their rows in the outbox. notification_age, entry_notification.
WITH old AS (
    SELECT n.id FROM notify.notification AS n
    WHERE n.created_at < now() - make_interval(secs => $1)
      AND NOT EXISTS (SELECT FROM notify.entry AS e WHERE e.notification_id = n.id AND e.kind = 1)
      AND NOT EXISTS (SELECT FROM notify.outbox AS o WHERE o.id = n.id AND o.problem IS NULL)
    ORDER BY n.created_at LIMIT $2
), emptied AS (
    DELETE FROM notify.outbox AS o USING old WHERE o.id = old.id
), gone AS (
    DELETE FROM notify.notification AS n USING old WHERE n.id = old.id RETURNING 1
)
SELECT count(*) FROM gone

-- name: retain_idempotency
-- Deletes keys whose 24 hours are over, and batches given up that long ago. idempotency_age; the abandoned are few.
WITH keys AS (
    DELETE FROM notify.idempotency AS k WHERE (k.producer, k.key) IN (
        SELECT i.producer, i.key FROM notify.idempotency AS i
        WHERE i.created_at < now() - interval '24 hours' ORDER BY i.created_at LIMIT $1
    ) RETURNING 1
), batches AS (
    DELETE FROM notify.abandoned AS a WHERE a.at < now() - interval '24 hours' RETURNING 1
)
SELECT (SELECT count(*) FROM keys) + (SELECT count(*) FROM batches)
