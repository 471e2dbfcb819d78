-- name: count_receipts
-- How many recipients of a notification stand at each status. While it is scheduled they are in the outbox. entry_notification.
SELECT s.status, count(*) FROM notify.receipts($1) AS s GROUP BY s.status
UNION ALL
SELECT notify.outbox_status(o.problem), cardinality(o.users) FROM notify.outbox AS o WHERE o.id = $1

-- name: list_receipts
-- The recipients of a notification after a user, in the order of their ids. entry_notification; the outbox by primary key.
SELECT * FROM (
    SELECT s.user_id, s.seq, s.status, s.delivered_at, s.read_at FROM notify.receipts($1, $2, $3) AS s
    UNION ALL
    SELECT u, NULL, notify.outbox_status(o.problem), NULL, NULL FROM notify.outbox AS o CROSS JOIN unnest(o.users) AS u WHERE o.id = $1
) AS s
WHERE s.user_id > $2 COLLATE "C" ORDER BY s.user_id COLLATE "C" LIMIT $3
