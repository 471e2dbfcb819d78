-- name: look_mailbox
-- One mailbox as it stands now. Primary keys.
SELECT m.head, m.floor, notify.unread(m.user_id) AS unread, m.born, notify.acknowledged_to(m.user_id) AS base
FROM notify.mailbox AS m WHERE m.user_id = $1

-- name: list_pending
-- What no device of a user has acknowledged, the oldest first. Primary keys.
SELECT e.seq, n.id, n.type, n.producer, n.created_at, n.expires_at, e.at, octet_length(n.data) AS bytes
FROM notify.entry AS e
CROSS JOIN LATERAL (SELECT x.* FROM notify.notification AS x WHERE x.id BETWEEN e.notification_id AND e.notification_id ORDER BY x.id LIMIT 1) AS n
WHERE e.user_id = $1 AND e.kind = 1 AND e.seq > notify.acknowledged_to($1) AND n.expires_at > clock_timestamp()
  AND NOT EXISTS (SELECT FROM notify.ending AS x WHERE x.user_id = e.user_id AND x.seq = e.seq OFFSET 0)
ORDER BY e.seq LIMIT $2

-- name: count_pending
-- How many those are, at most as many as a mailbox keeps, and since when the first waits. Primary keys (see
-- count_replayable).
SELECT count(*) AS pending, min(e.at) AS oldest_at
FROM notify.entry AS e
CROSS JOIN LATERAL (SELECT x.expires_at FROM notify.notification AS x WHERE x.id BETWEEN e.notification_id AND e.notification_id ORDER BY x.id LIMIT 1) AS n
WHERE e.user_id = $1 AND e.seq > notify.acknowledged_to($1) AND e.kind BETWEEN 1 AND 1 AND n.expires_at > clock_timestamp()
  AND NOT EXISTS (SELECT FROM notify.ending AS x WHERE x.user_id = e.user_id AND x.seq = e.seq OFFSET 0)

-- name: list_recent
-- The latest notifications of a user and what became of them, the newest first; of one queued again its newest entry. Primary
-- keys of entry (see count_replayable), walked backwards, ending and notification; each one's receipt by entry_notification.
SELECT e.seq, n.id, n.type, n.producer, n.created_at, n.expires_at, e.at, octet_length(n.data) AS bytes,
       r.status, r.delivered_at, r.read_at,
       (SELECT x.at FROM notify.ending AS x WHERE x.user_id = e.user_id AND x.seq = e.seq) AS ended_at
FROM (
    SELECT e.user_id, e.seq, e.notification_id, e.at FROM notify.entry AS e
    WHERE e.user_id = $1 AND e.kind BETWEEN 1 AND 1
      AND NOT EXISTS (SELECT FROM notify.ending AS x WHERE x.user_id = e.user_id AND x.seq = e.seq AND x.reason = 4 OFFSET 0)
    ORDER BY e.seq DESC LIMIT $2
) AS e
CROSS JOIN LATERAL (SELECT x.* FROM notify.notification AS x WHERE x.id BETWEEN e.notification_id AND e.notification_id ORDER BY x.id LIMIT 1) AS n
CROSS JOIN LATERAL notify.receipts(n.id, only_user => $1) AS r
ORDER BY e.seq DESC

-- name: replay
-- Queues again what a user was sent after a seq and is not over; answers with how many. See the function.
SELECT notify.replay($1, $2, $3, $4)

-- name: purge
-- Withdraws everything pending of a user; answers with how many. See the function.
SELECT notify.purge($1, $2)

-- name: erase
-- Erases everything about a user; answers with how many notifications went. See the function.
SELECT notify.erase($1, $2)

-- name: cancel_any
-- Withdraws anybody's notification; NULL when there is no such one. entry_notification; see the function.
SELECT notify.cancel_any($1, $2)

-- name: allow_time
-- Lets the next statement of this transaction run for longer ('60s'). No table.
SELECT set_config('statement_timeout', $1, true)
