-- name: deposit
-- Stores a batch of notifications in one commit and answers with its moment. Primary keys; see the function.
SELECT notify.deposit($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)

-- name: settle
-- After a broken connection: when the batch was committed, or NULL once it is certain that it never will be. Primary keys.
SELECT notify.settle($1, $2)

-- name: blocked_users
-- Whose mailboxes somebody holds at this moment, so that only they wait. Locks and lets go of the others at once. Primary key.
WITH free AS (
    SELECT m.user_id FROM notify.mailbox AS m WHERE m.user_id = ANY ($1::text[]) ORDER BY m.user_id FOR UPDATE SKIP LOCKED
)
SELECT COALESCE(array_agg(m.user_id), '{}') FROM notify.mailbox AS m
WHERE m.user_id = ANY ($1::text[]) AND m.user_id NOT IN (SELECT f.user_id FROM free AS f)

-- name: find_notification
-- One notification, as its producer may see it. Primary key.
SELECT n.id, n.type, n.data, n.codec, n.recipients, n.created_at, n.expires_at, n.collapse_key, n.producer, o.due_at
FROM notify.notification AS n LEFT JOIN notify.outbox AS o ON o.id = n.id
WHERE n.id = $1 AND ($2::text IS NULL OR n.producer = $2)
