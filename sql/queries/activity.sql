-- name: record_activity
-- What a node and its producers did lately. See the function.
SELECT notify.record_activity($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)

-- name: list_samples
-- What all nodes did in the last so many seconds: one row a node and ten seconds. Primary key.
SELECT s.at, s.seconds, s.sent, s.delivered, s.acked, s.latency FROM notify.sample AS s
WHERE s.at > now() - make_interval(secs => $1) ORDER BY s.at

-- name: list_producers
-- Who sent how much in the last day, the busiest first. Primary key: 24 rows a producer.
SELECT p.producer, sum(p.notifications)::bigint AS notifications, sum(p.recipients)::bigint AS recipients,
       sum(p.refused)::bigint AS refused, max(p.seen_at) AS seen_at
FROM notify.production AS p WHERE p.hour > now() - interval '24 hours'
GROUP BY p.producer ORDER BY recipients DESC, p.producer LIMIT $1

-- name: count_outbox
-- What is scheduled, looked at to 10,000, when the first of it is due, and what could not be released. outbox_due; the rows
-- set aside are few.
SELECT (SELECT count(*) FROM (SELECT FROM notify.outbox AS o WHERE o.problem IS NULL LIMIT 10000) AS o) AS scheduled,
       (SELECT min(o.due_at) FROM notify.outbox AS o WHERE o.problem IS NULL) AS next_due_at
