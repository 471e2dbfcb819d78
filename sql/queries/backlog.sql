-- name: keep_backlog
-- Takes or renews the lease on following the wake-ups, and says up to when that was done; answers with the time now and that
-- before, no row when another node has the lease. The one row.
WITH before AS (SELECT s.as_of FROM notify.backlog_state AS s)
UPDATE notify.backlog_state AS s
SET keeper = $1, kept_until = clock_timestamp() + make_interval(secs => $2), as_of = GREATEST(s.as_of, $3)
FROM before AS b WHERE s.keeper = $1 OR s.kept_until < clock_timestamp()
RETURNING clock_timestamp() AS now, b.as_of

-- name: leave_backlog
-- Gives the lease back. The one row.
UPDATE notify.backlog_state AS s SET kept_until = '-infinity' WHERE s.keeper = $1

-- name: refresh_backlog
-- Looks at some mailboxes again. Primary keys; see the function.
SELECT notify.refresh_backlog($1)

-- name: walk_backlog
-- Looks at the next mailboxes of the walk, and at those in which something expired. Primary keys; see the function.
SELECT notify.walk_backlog($1)

-- name: list_touched
-- Who was sent something since 20 seconds before a time (a dead link is noticed by then), as far as a few thousand notifications tell. notification_age, entry_notification:
-- asked for one by one (OFFSET 0), whatever a plan that was made while there were none would rather do.
SELECT e.user_id
FROM (SELECT n.id FROM notify.notification AS n WHERE n.created_at > $1::timestamptz - interval '20 seconds' ORDER BY n.created_at DESC LIMIT 2000) AS n
CROSS JOIN LATERAL (SELECT x.user_id FROM notify.entry AS x WHERE x.notification_id = n.id AND x.kind = 1 OFFSET 0) AS e
LIMIT 20000

-- name: sum_backlog
-- All mailboxes together, and how old this is: up to when both the keeper and every node alive have said what they touched.
-- The one row; the nodes, a handful; the first row of backlog_age.
SELECT LEAST(s.as_of, (SELECT min(n.summed_at) FROM notify.node AS n WHERE n.seen_at > now() - interval '6 seconds')) AS as_of,
       s.mailboxes, s.pending,
       (SELECT b.oldest_at FROM notify.backlog AS b WHERE b.pending > 0 ORDER BY b.oldest_at, b.user_id LIMIT 1) AS oldest_at
FROM notify.backlog_state AS s

-- name: list_backlog
-- A page of the mailboxes with anything pending, deepest or oldest first. backlog_depth, backlog_age; see the function.
SELECT b.user_id, b.pending, b.oldest_at FROM notify.list_backlog($1, $2, $3, $4, $5, $6) AS b
