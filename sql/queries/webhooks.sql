-- name: ripen
-- Makes calls of deadlines that have passed; answers with how many, and what became of the others. deadline_due; see the function.
SELECT r.called, r.settled, r.unwanted, r.dropped FROM notify.ripen($1, $2) AS r

-- name: claim_calls
-- Takes calls that are due, app by app, for this node alone. webhook_call_next; see the function.
SELECT c.id, c.app, c.url, c.secret, c.due_at, c.attempt FROM notify.claim_calls($1, $2, $3) AS c

-- name: find_undelivered
-- A notification and who is pending at this moment: how many, and the first of them. By notify.receipts;
-- primary keys, see receiving.sql for the ranges.
SELECT n.type, n.producer, n.context, n.created_at, n.expires_at, n.recipients, p.pending, p.users
FROM (SELECT x.* FROM notify.notification AS x WHERE x.id BETWEEN $1 AND $1 ORDER BY x.id LIMIT 1) AS n
CROSS JOIN LATERAL (
    SELECT count(*) AS pending, COALESCE((array_agg(w.user_id ORDER BY w.user_id COLLATE "C"))[:$2], '{}') AS users
    FROM (
        SELECT r.user_id FROM notify.receipts(n.id) AS r WHERE r.status = 'pending'
        UNION ALL
        SELECT unnest(o.users)
        FROM (SELECT x.users, x.problem FROM notify.outbox AS x WHERE x.id BETWEEN $1 AND $1 ORDER BY x.id LIMIT 1) AS o
        WHERE o.problem IS NULL
    ) AS w
) AS p

-- name: finish_call
-- Lets a call go that was taken. Primary keys; see the function.
SELECT notify.finish_call($1, $2)

-- name: fail_call
-- Puts a call back, or gives it up, and says which; NULL when it is another node's by now. Primary keys; see the function.
SELECT notify.fail_call($1, $2, $3, $4, $5, $6)

-- name: drop_call
-- Lets a call go that need not be made any more. Primary key.
DELETE FROM notify.webhook_call AS c WHERE c.id = $1

-- name: count_waiting_calls
-- How many calls wait, counted to $1 an app. webhook_call_next.
SELECT COALESCE(sum(c.n), 0)::bigint FROM notify.webhook AS w CROSS JOIN LATERAL (
    SELECT count(*) AS n FROM (
        SELECT FROM notify.webhook_call AS c WHERE c.app = w.app AND c.next_at IS NOT NULL LIMIT $1
    ) AS c
) AS c

-- name: list_webhooks
-- The webhooks of apps after one, or of one only, each with what waits and what was given up. Primary key; webhook_call_app,
-- webhook_call_next.
SELECT w.app, w.url, w.set_by, w.set_at, w.last_at, w.last_result, w.failures, w.dropped, c.waiting, a.n - c.waiting AS given_up
FROM notify.webhook AS w
CROSS JOIN LATERAL (
    SELECT count(*) AS waiting FROM notify.webhook_call AS c WHERE c.app = w.app AND c.next_at IS NOT NULL
) AS c
CROSS JOIN LATERAL (SELECT count(*) AS n FROM notify.webhook_call AS c WHERE c.app = w.app) AS a
WHERE w.app > $1 AND ($2::text IS NULL OR w.app = $2) ORDER BY w.app LIMIT $3

-- name: list_calls
-- The latest calls of an app that wait or were given up. webhook_call_app, walked backwards.
SELECT c.id, c.due_at, c.attempts, c.tried_at, c.next_at, c.problem FROM notify.webhook_call AS c
WHERE c.app = $1 ORDER BY c.due_at DESC, c.id DESC LIMIT $2

-- name: set_webhook
-- Sets an app's webhook and writes that to the audit log; answers with how many calls wait for it. See the function.
SELECT notify.set_webhook($1, $2, $3, $4, $5)

-- name: remove_webhook
-- Removes an app's webhook with its calls and writes that to the audit log; NULL when there was none. See the function.
SELECT notify.remove_webhook($1, $2)
