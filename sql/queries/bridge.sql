-- name: beat
-- A heartbeat through NOTIFY itself, from a node to itself; answers with the time. No table.
SELECT EXTRACT(epoch FROM clock_timestamp())::float8, pg_notify('notify_beat', $1)
