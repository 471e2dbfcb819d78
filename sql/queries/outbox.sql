-- name: release
-- Numbers what is due, up to so many recipients; answers with how many rows. outbox_due; see the function.
SELECT notify.release($1, $2)

-- name: next_due
-- Seconds until something is due or expires, NULL when nothing ever is. outbox_due, notification_unswept.
SELECT EXTRACT(epoch FROM LEAST(
    (SELECT min(o.due_at) FROM notify.outbox AS o WHERE o.problem IS NULL),
    (SELECT min(n.expires_at) FROM notify.notification AS n WHERE NOT n.swept)
) - clock_timestamp())::float8

-- name: sweep_expired
-- Takes what expired out of the unread counts; answers with how many notifications. notification_unswept; see the function.
SELECT notify.sweep_expired($1, $2)
