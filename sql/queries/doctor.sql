-- name: describe_server
-- What PostgreSQL this is, whether it can be written to, and its time. No table.
SELECT current_setting('server_version_num')::integer AS version, pg_is_in_recovery() AS replica,
       current_setting('transaction_read_only') = 'on' AS read_only, EXTRACT(epoch FROM clock_timestamp())::float8 AS now

-- name: list_open_transactions
-- Transactions open for over so many seconds that hold rows of ours: sent with notify.send() and not committed, or a mailbox
-- locked. The age is NULL where this role may not see it (pg_read_all_stats shows it). The server's own views.
SELECT a.pid, a.usename AS role, a.application_name AS application, a.state,
       EXTRACT(epoch FROM clock_timestamp() - a.xact_start)::float8 AS age,
       array_agg(DISTINCT c.relname ORDER BY c.relname) AS tables
FROM pg_locks AS l
JOIN pg_class AS c ON c.oid = l.relation AND c.relnamespace = 'notify'::regnamespace AND c.relkind = 'r'
JOIN pg_stat_activity AS a ON a.pid = l.pid
WHERE l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
  AND l.mode IN ('RowExclusiveLock', 'RowShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
  AND l.pid <> pg_backend_pid() AND a.backend_type = 'client backend'
  AND COALESCE(clock_timestamp() - a.xact_start > make_interval(secs => $1), a.xact_start IS NULL)
GROUP BY a.pid, a.usename, a.application_name, a.state, a.xact_start
ORDER BY a.xact_start

-- name: count_set_aside
-- What the outbox could not release, and what PostgreSQL said of one of them. Reads the outbox, which nobody waits for here.
SELECT count(*) AS rows, min(o.problem) AS problem
FROM notify.outbox AS o WHERE o.problem NOT IN ('cancelled', 'expired')
