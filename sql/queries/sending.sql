-- name: deposit
-- Stores a batch of notifications in one commit and answers with its moment. Primary keys; see the function.
SELECT notify.deposit($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)

-- name: deposit_alone
-- Stores one ordinary notification for one user and answers with its moment. Primary keys; see the function.
SELECT notify.deposit_alone($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)

-- name: settle
-- After a broken connection: when the batch was committed, or NULL once it is certain that it never will be. Primary keys.
SELECT notify.settle($1, $2)

-- name: blocked_users
-- Whose mailboxes somebody holds at this moment, so that only they wait. Locks and lets go of the others at once. Primary key.
SELECT notify.grab($1)

-- name: find_notification
-- One notification, as its producer may see it. Primary keys; see receiving.sql for the ranges.
SELECT n.id, n.type, n.data, n.codec, n.recipients, n.created_at, n.expires_at, n.collapse_key, n.producer, n.context,
       (SELECT o.due_at FROM notify.outbox AS o WHERE o.id BETWEEN $1 AND $1 ORDER BY o.id LIMIT 1) AS due_at,
       COALESCE(
           (SELECT d.due_at FROM notify.deadline AS d WHERE d.id BETWEEN $1 AND $1 ORDER BY d.id LIMIT 1),
           (SELECT c.due_at FROM notify.webhook_call AS c WHERE c.id BETWEEN $1 AND $1 ORDER BY c.id LIMIT 1)
       ) AS undelivered_at
FROM (SELECT x.* FROM notify.notification AS x WHERE x.id BETWEEN $1 AND $1 ORDER BY x.id LIMIT 1) AS n
WHERE $2::text IS NULL OR n.producer = $2

-- name: cancel
-- Withdraws a notification of a producer; NULL when there is no such one. entry_notification; see the function.
SELECT notify.cancel($1, $2)

-- name: find_answers
-- The answers that requests with these idempotency keys got. Primary key.
SELECT k.key, k.digest, k.ids, k.recipients, k.created_at FROM notify.idempotency AS k
WHERE k.producer = $1 AND k.key = ANY ($2::text[]) AND k.created_at > now() - interval '24 hours'

-- name: broadcast
-- Hands messages that are never stored to every node. No table.
SELECT pg_notify('notify_now', p) FROM unnest($1::text[]) WITH ORDINALITY AS m (p, ord) ORDER BY ord

-- name: list_topic_users
-- Up to $2 subscribers of a topic. Primary key.
SELECT s.user_id FROM notify.subscription AS s WHERE s.topic = $1 ORDER BY s.user_id LIMIT $2

-- name: list_subscribers
-- A page of a topic's subscribers after one. Primary key.
SELECT s.user_id FROM notify.subscription AS s WHERE s.topic = $1 AND s.user_id > $2 ORDER BY s.user_id LIMIT $3

-- name: subscribe
-- Subscribes a user to a topic. Primary key.
INSERT INTO notify.subscription (topic, user_id) VALUES ($1, $2) ON CONFLICT DO NOTHING

-- name: unsubscribe
-- Takes a user off a topic. Primary key.
DELETE FROM notify.subscription AS s WHERE s.topic = $1 AND s.user_id = $2
