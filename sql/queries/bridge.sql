-- name: beat
-- A heartbeat through NOTIFY itself, from a node to itself. No table.
SELECT pg_notify('notify_beat', $1)
