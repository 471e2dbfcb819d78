-- name: count_replayable
-- How many notifications notify.replay would queue again: those after a seq that are not over. Primary keys: a
-- range of kinds is none that entry_notification is for, which finds a user's entries only by reading everybody's.
SELECT count(*)
FROM notify.entry AS e
CROSS JOIN LATERAL (SELECT x.expires_at FROM notify.notification AS x WHERE x.id BETWEEN e.notification_id AND e.notification_id ORDER BY x.id LIMIT 1) AS n
WHERE e.user_id = $1 AND e.seq > $2 AND e.kind BETWEEN 1 AND 1 AND n.expires_at > clock_timestamp()
  AND NOT EXISTS (SELECT FROM notify.ending AS x WHERE x.user_id = e.user_id AND x.seq = e.seq OFFSET 0)

-- name: count_user_sessions
-- How many open sessions a user has. session_owner.
SELECT count(*) FROM notify.session AS s WHERE s.user_id = $1

-- name: count_token_sessions
-- How many open sessions a single token opened. Reads every open session, once for each confirmation that an admin is shown.
SELECT count(*) FROM notify.session AS s WHERE s.token_id = $1

-- name: find_session
-- One open session. Primary key.
SELECT s.id, s.node_id, s.user_id, s.device, s.protocol, s.token_id, s.opened_at FROM notify.session AS s WHERE s.id = $1

-- name: is_denied
-- Whether this is on the deny list. Primary key.
SELECT EXISTS (SELECT FROM notify.denial AS d WHERE d.kind = $1 AND d.value = $2)

-- name: send_test
-- Stores an admin's test notification for one user, due at once, and writes that to the audit log in the same commit; the
-- janitor numbers it within a second. Primary keys.
WITH stored AS (
    INSERT INTO notify.notification (id, producer, type, data, recipients, created_at, expires_at)
    VALUES ($2, $1, $4, $5, 1, clock_timestamp(), clock_timestamp() + make_interval(secs => $6))
), queued AS (
    INSERT INTO notify.outbox (id, due_at, users) VALUES ($2, clock_timestamp(), ARRAY[$3::text])
)
SELECT notify.write_audit($1, 'send', $3, 1, 'test ' || $2::text)

-- name: list_tables
-- The tables of the service: rows by the last ANALYZE (-1: never), and bytes with indexes and TOAST. The catalogs only.
SELECT c.relname AS name, c.reltuples::bigint AS rows, pg_table_size(c.oid) AS table_bytes, pg_indexes_size(c.oid) AS index_bytes
FROM pg_catalog.pg_class AS c
WHERE c.relnamespace = 'notify'::regnamespace AND c.relkind IN ('r', 'p')
ORDER BY pg_total_relation_size(c.oid) DESC, c.relname

-- name: describe_database
-- What the database says of itself. No table.
SELECT current_setting('server_version') AS version, current_database()::text AS name, pg_database_size(current_database()) AS bytes,
       pg_postmaster_start_time() AS started_at, pg_is_in_recovery() AS standby

-- name: list_applied_migrations
-- What has been applied, a handful of rows, the latest first.
SELECT m.number, m.name, m.applied_at FROM notify.migration AS m ORDER BY m.number DESC
