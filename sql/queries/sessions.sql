-- name: report
-- A node says that it is alive and which sessions opened and closed; answers with whether it was known. See the function.
SELECT notify.report($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21)

-- name: leave_node
-- Takes a node that stops off the list, with its sessions. Primary key, session_node.
WITH gone AS (DELETE FROM notify.node AS n WHERE n.id = $1), closed AS (DELETE FROM notify.session AS s WHERE s.node_id = $1 RETURNING 1)
SELECT count(*) FROM closed

-- name: list_nodes
-- The nodes that are alive, a handful, by age. Primary key.
SELECT n.id, n.host, n.pid, n.version, n.started_at, n.seen_at, n.sessions, n.users, n.draining, n.listening, n.lag, n.reconnects
FROM notify.node AS n WHERE n.seen_at > now() - interval '30 seconds' ORDER BY n.started_at, n.id

-- name: list_sessions
-- Open sessions of all nodes, the newest first, from before one; with $2 only that user's. Primary key or session_owner.
SELECT s.id, s.node_id, s.user_id, s.device, s.protocol, s.token_id, s.opened_at
FROM notify.session AS s
WHERE s.id < $1 AND ($2::text IS NULL OR s.user_id = $2)
ORDER BY s.id DESC LIMIT $3

-- name: count_sessions
-- How many sessions are open, and of how many users. session_owner alone, without its table.
SELECT count(*) AS sessions, count(DISTINCT s.user_id) AS users FROM notify.session AS s

-- name: close_session
-- Orders one session closed; answers with whose it is, NULL when there is no such one. See the function.
SELECT notify.close_session($1, $2)

-- name: disconnect
-- Orders every session of a user closed; answers with how many are known of. See the function.
SELECT notify.disconnect($1, $2)

-- name: list_orders
-- The orders of the last ten minutes, with their age in seconds. node_order_age.
SELECT o.id, o.session_id, o.user_id, o.code, EXTRACT(epoch FROM clock_timestamp() - o.at)::float8 AS age
FROM notify.node_order AS o WHERE o.at > now() - interval '10 minutes' ORDER BY o.at
