-- name: retain_mailboxes
-- Lets old entries go, a few mailboxes a call; answers with how many went. See the function.
SELECT notify.retain_mailboxes(now() - make_interval(secs => $1), $2, $3)

-- name: retain_notifications
-- Deletes old notifications that no mailbox holds any more, looking at a few; answers with how many went. See the function.
SELECT notify.retain_notifications(now() - make_interval(secs => $1), $2)

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
