-- When nobody is there: where an app wants to hear of what was still pending at its deadline, and the calls that are due there.
--
--     deadline ──ripen──▶ gone: nobody is pending any more, or its app has no webhook
--         └─────ripen──▶ waiting ◀────────── fail ───────────┐
--                           └──claim──▶ held ──finish──▶ gone: taken, or nobody is pending any more
--                                         └────fail──▶ given up: a day is over, or the receiver is gone

-- Where an app wants to hear of it. The secret signs, so it has to be kept as it is.
CREATE TABLE notify.webhook (
    app text COLLATE "C" PRIMARY KEY,
    url text NOT NULL,
    secret bytea NOT NULL,
    set_by text NOT NULL,
    set_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_at timestamptz,                  -- the last call: when it ended, ...
    last_result text,                     -- ... and how, in words that may be shown
    failures integer NOT NULL DEFAULT 0,  -- calls that failed since the last that did not
    rest_until timestamptz NOT NULL DEFAULT '-infinity',  -- no call before: it asked for that, or keeps failing
    dropped bigint NOT NULL DEFAULT 0     -- calls never made because too many waited
) WITH (fillfactor = 50);

-- A call that has yet to get through, or was given up: one a notification, whose id is the call's. What it will say is looked up
-- when it is made. It goes with its notification, and with its webhook.
CREATE TABLE notify.webhook_call (
    id uuid PRIMARY KEY REFERENCES notify.notification ON DELETE CASCADE,
    app text COLLATE "C" NOT NULL REFERENCES notify.webhook ON DELETE CASCADE,
    due_at timestamptz NOT NULL,          -- the deadline that passed,
    made_at timestamptz NOT NULL,         -- and when somebody saw that
    attempts integer NOT NULL DEFAULT 0,
    next_at timestamptz,                  -- when it is tried (again); while held, when its holder counts as dead; NULL: given up
    held boolean NOT NULL DEFAULT false,  -- a node is at it
    tried_at timestamptz,
    problem text                          -- how the last attempt failed, in words that may be shown
) WITH (fillfactor = 70);
CREATE INDEX webhook_call_app ON notify.webhook_call (app, due_at, id);
CREATE INDEX webhook_call_next ON notify.webhook_call (app, next_at, id) WHERE next_at IS NOT NULL;
CREATE INDEX webhook_call_held ON notify.webhook_call (app) WHERE held;

-- A deadline goes with its notification.
ALTER TABLE notify.deadline ADD FOREIGN KEY (id) REFERENCES notify.notification ON DELETE CASCADE;

-- Whether a notification may be pending with anybody, or still waits in the outbox. Errs on the side of yes for one that was queued
-- again after it had been acknowledged: notify.receipts decides, when the call is made. Ends at the first one found.
-- entry_notification, the rest by primary keys.
CREATE FUNCTION notify.is_undelivered(notification uuid) RETURNS boolean
LANGUAGE sql VOLATILE SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
    SELECT EXISTS (
        SELECT FROM notify.notification AS n WHERE n.id = notification AND n.expires_at > clock_timestamp()
    ) AND (
        EXISTS (
            SELECT FROM notify.entry AS e
            WHERE e.notification_id = notification AND e.kind = 1
              AND NOT EXISTS (SELECT FROM notify.ending AS x WHERE x.user_id = e.user_id AND x.seq = e.seq OFFSET 0)
              AND e.seq > COALESCE((SELECT max(c.seq) FROM notify.cursor AS c WHERE c.user_id = e.user_id), 0)
        )
        OR EXISTS (SELECT FROM notify.outbox AS o WHERE o.id = notification AND o.problem IS NULL AND o.users <> '{}')
    )
$$;

-- Takes the deadlines that have passed, in their order, and makes calls of those that somebody still has not got. Answers with how
-- many became calls; were settled, with nobody pending; had an app without a webhook; or were dropped, since max_waiting calls of
-- their app wait already. One at a time in the cluster (an advisory lock, gone with its transaction). Ends after a fifth of a
-- second of work. deadline_due, webhook_call_next; primary keys.
CREATE FUNCTION notify.ripen(
    max_deadlines integer, max_waiting bigint, OUT called bigint, OUT settled bigint, OUT unwanted bigint, OUT dropped bigint
)
LANGUAGE plpgsql SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    moment timestamptz := clock_timestamp();
    due record;
    looked uuid[] := '{}';
BEGIN
    called := 0;
    settled := 0;
    unwanted := 0;
    dropped := 0;
    IF NOT pg_try_advisory_xact_lock(hashtextextended('notify deadlines', 2)) THEN
        RETURN;
    END IF;
    FOR due IN
        SELECT d.id, d.due_at, w.app
        FROM notify.deadline AS d
        JOIN notify.notification AS n ON n.id = d.id
        LEFT JOIN notify.webhook AS w ON w.app = n.producer COLLATE "C"
        WHERE d.due_at <= moment ORDER BY d.due_at, d.id LIMIT max_deadlines
        FOR UPDATE OF d SKIP LOCKED FOR KEY SHARE OF n SKIP LOCKED
    LOOP
        EXIT WHEN clock_timestamp() > moment + interval '200 milliseconds';
        looked := looked || due.id;
        IF due.app IS NULL THEN
            unwanted := unwanted + 1;
        ELSIF NOT notify.is_undelivered(due.id) THEN
            settled := settled + 1;
        ELSIF EXISTS (
            SELECT FROM notify.webhook_call AS c WHERE c.app = due.app AND c.next_at IS NOT NULL OFFSET max_waiting - 1 LIMIT 1
        ) THEN
            UPDATE notify.webhook AS w SET dropped = w.dropped + 1 WHERE w.app = due.app;
            dropped := dropped + 1;
        ELSE
            INSERT INTO notify.webhook_call (id, app, due_at, made_at, next_at)
            SELECT due.id, w.app, due.due_at, moment, moment FROM notify.webhook AS w WHERE w.app = due.app FOR KEY SHARE;
            called := called + 1;
        END IF;
    END LOOP;
    DELETE FROM notify.deadline AS d WHERE d.id = ANY (looked);
END $$;

-- Claims calls that are due: holds each for lease seconds, after which whoever has it counts as dead. Apps take turns; per_app calls
-- of one are held at a time in the cluster, a single one while its last call failed, none while it rests. One claims at a time
-- (an advisory lock), so that these bounds are exact. Webhooks are few: an admin sets each. webhook_call_next, webhook_call_held.
CREATE FUNCTION notify.claim_calls(max_calls integer, per_app integer, lease double precision)
RETURNS TABLE (id uuid, app text, url text, secret bytea, due_at timestamptz, attempt integer)
LANGUAGE plpgsql SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
#variable_conflict use_column
DECLARE
    moment timestamptz := clock_timestamp();
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('notify webhooks', 2)) THEN
        RETURN;
    END IF;
    RETURN QUERY
    WITH picked AS MATERIALIZED (
        SELECT p.id, w.url, w.secret
        FROM notify.webhook AS w
        CROSS JOIN LATERAL (
            SELECT c.id, c.next_at, row_number() OVER (ORDER BY c.next_at, c.id) AS turn
            FROM (
                SELECT c.id, c.next_at FROM notify.webhook_call AS c
                WHERE c.app = w.app AND c.next_at <= moment ORDER BY c.next_at, c.id
                LIMIT GREATEST(0, CASE WHEN w.failures > 0 THEN 1 ELSE per_app END - (
                    SELECT count(*) FROM notify.webhook_call AS h WHERE h.app = w.app AND h.held AND h.next_at > moment
                ))
                FOR UPDATE SKIP LOCKED
            ) AS c
        ) AS p
        WHERE w.rest_until <= moment
        ORDER BY p.turn, p.next_at, p.id LIMIT max_calls
    )
    UPDATE notify.webhook_call AS c
    SET held = true, attempts = c.attempts + 1, next_at = moment + make_interval(secs => lease)
    FROM picked AS p WHERE c.id = p.id
    RETURNING c.id, c.app, p.url, p.secret, c.due_at, c.attempts;
END $$;

-- Lets a call go that got through: its webhook is well again. By its id alone: whoever else may hold it by now, it has been taken.
-- Primary keys.
CREATE FUNCTION notify.finish_call(call uuid, result text) RETURNS void
LANGUAGE sql AS $$
    WITH finished AS (DELETE FROM notify.webhook_call AS c WHERE c.id = call RETURNING c.app)
    UPDATE notify.webhook AS w SET last_at = clock_timestamp(), last_result = result, failures = 0, rest_until = '-infinity'
    FROM finished AS f WHERE w.app = f.app
$$;

-- Puts a call back that failed, to be tried after delay seconds; gives it up if that is NULL, or more than patience seconds after it
-- was made. Its app rests for as long as it asked to, and a second more with each failure in a row, up to half a minute.
-- Answers with whether it was given up; NULL when another node holds it by now. Primary keys.
CREATE FUNCTION notify.fail_call(
    call uuid, attempt integer, result text, delay double precision, rest double precision, patience double precision
) RETURNS boolean
LANGUAGE sql AS $$
    WITH failed AS (
        UPDATE notify.webhook_call AS c
        SET held = false, tried_at = clock_timestamp(), problem = result,
            next_at = CASE WHEN clock_timestamp() + make_interval(secs => delay) <= c.made_at + make_interval(secs => patience)
                           THEN clock_timestamp() + make_interval(secs => delay) END
        WHERE c.id = call AND c.attempts = attempt AND c.held
        RETURNING c.app, c.next_at
    ), told AS (
        UPDATE notify.webhook AS w
        SET last_at = clock_timestamp(), last_result = result, failures = w.failures + 1,
            rest_until = clock_timestamp() + make_interval(secs => GREATEST(rest, LEAST(w.failures, 30)))
        FROM failed AS f WHERE w.app = f.app
    )
    SELECT f.next_at IS NULL FROM failed AS f
$$;

-- Sets an app's webhook; what waits is tried there as soon as its turn comes. Answers with how many calls that are. Only calls that
-- nobody holds are touched: who holds one takes the call before the webhook. Primary key; webhook_call_next.
CREATE FUNCTION notify.set_webhook(actor text, app text, url text, secret bytea, host text) RETURNS bigint
LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    moment timestamptz := clock_timestamp();
    waiting bigint;
BEGIN
    INSERT INTO notify.webhook AS w (app, url, secret, set_by) VALUES (app, url, secret, actor)
    ON CONFLICT ON CONSTRAINT webhook_pkey DO UPDATE
    SET url = excluded.url, secret = excluded.secret, set_by = excluded.set_by, set_at = excluded.set_at,
        last_at = NULL, last_result = NULL, failures = 0, rest_until = '-infinity';
    UPDATE notify.webhook_call AS c SET next_at = moment WHERE c.app = set_webhook.app AND c.next_at > moment AND NOT c.held;
    SELECT count(*) INTO waiting FROM notify.webhook_call AS c WHERE c.app = set_webhook.app AND c.next_at IS NOT NULL;
    RETURN notify.write_audit(actor, 'set webhook', app, waiting, host);
END $$;

-- Removes an app's webhook, and with it what waits or was given up. Answers with how many calls waited, NULL when there was none.
-- Calls before the webhook: the order in which everybody takes them. webhook_call_app, primary key.
CREATE FUNCTION notify.remove_webhook(actor text, app text) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    waiting bigint;
BEGIN
    WITH gone AS (DELETE FROM notify.webhook_call AS c WHERE c.app = remove_webhook.app RETURNING c.next_at)
    SELECT count(g.next_at) INTO waiting FROM gone AS g;
    DELETE FROM notify.webhook AS w WHERE w.app = remove_webhook.app;
    RETURN CASE WHEN FOUND THEN notify.write_audit(actor, 'remove webhook', app, waiting) END;
END $$;
