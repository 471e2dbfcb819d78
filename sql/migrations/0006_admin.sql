-- What admins see and do: nodes and sessions across processes, orders to nodes, the deny list, the audit log, activity.

-- Every process of the service that is alive. Written by the node itself every few seconds; one that stopped is removed by
-- any other. Unlogged: after a crash of PostgreSQL it is empty, and the nodes that still live write themselves down again.
CREATE UNLOGGED TABLE notify.node (
    id uuid PRIMARY KEY,
    host text NOT NULL,
    pid integer NOT NULL,
    version text NOT NULL,
    started_at timestamptz NOT NULL,
    seen_at timestamptz NOT NULL,
    summed_at timestamptz NOT NULL,       -- what its devices acknowledged until then is in the backlog
    sessions integer NOT NULL,
    users integer NOT NULL,
    draining boolean NOT NULL,
    listening boolean NOT NULL,           -- whether its LISTEN link is up
    lag double precision NOT NULL,        -- seconds the link's last heartbeat took
    reconnects integer NOT NULL
) WITH (fillfactor = 50);

-- Every open session, of all nodes; gone with its node.
CREATE UNLOGGED TABLE notify.session (
    id uuid PRIMARY KEY,
    node_id uuid NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    device text COLLATE "C" NOT NULL,
    protocol text NOT NULL,
    token_id text,                        -- the `jti` of the token it was opened with, to put on the deny list
    opened_at timestamptz NOT NULL
);
CREATE INDEX session_owner ON notify.session (user_id, opened_at);
CREATE INDEX session_node ON notify.session (node_id);

-- Orders to all nodes: close this session, or this user's sessions that were open at that time. A NOTIFY says that there is
-- one; they are rows so that a node that did not hear it reads them later. Kept for ten minutes.
CREATE TABLE notify.node_order (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    session_id uuid,
    user_id text COLLATE "C",
    code integer NOT NULL,                -- the close code
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK (num_nonnulls(session_id, user_id) = 1)
);
CREATE INDEX node_order_age ON notify.node_order (at);
CREATE INDEX node_order_session ON notify.node_order (session_id);

-- Tokens that are refused although they are signed: by their subject or by their `jti`.
CREATE TABLE notify.denial (
    kind text NOT NULL CHECK (kind IN ('sub', 'jti')),
    value text COLLATE "C" NOT NULL,
    actor text NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (kind, value)
);

-- Who did what to whom, when, and how many it touched. A row is written in the commit of the act itself.
CREATE TABLE notify.audit (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor text NOT NULL,
    action text NOT NULL,
    target text NOT NULL,
    affected bigint NOT NULL,
    detail text                           -- what else tells this act from another, e.g. `after 41`
);
CREATE INDEX audit_age ON notify.audit (at);

-- What a node did in ten seconds. latency: how many deliveries fell into each of activity.py's ranges.
CREATE UNLOGGED TABLE notify.sample (
    at timestamptz NOT NULL,
    node_id uuid NOT NULL,
    seconds double precision NOT NULL,
    sent bigint NOT NULL,                 -- recipients
    delivered bigint NOT NULL,            -- notifications written to sockets
    acked bigint NOT NULL,                -- of those, how many were acknowledged
    latency bigint[] NOT NULL,
    PRIMARY KEY (at, node_id)
);

-- Who sent how much through the REST door, by hours.
CREATE TABLE notify.production (
    hour timestamptz NOT NULL,
    producer text COLLATE "C" NOT NULL,
    notifications bigint NOT NULL,
    recipients bigint NOT NULL,
    refused bigint NOT NULL,              -- requests answered with an error
    seen_at timestamptz NOT NULL,
    PRIMARY KEY (hour, producer)
);

-- Tells every node that there are orders, or that the deny list changed.
CREATE FUNCTION notify.call_nodes() RETURNS void
LANGUAGE sql AS $$ SELECT pg_notify('notify_order', '') $$;

-- Writes down an act. Answers with the number given, so that an act can end with it.
CREATE FUNCTION notify.write_audit(actor text, action text, target text, affected bigint, detail text DEFAULT NULL) RETURNS bigint
LANGUAGE sql AS $$
    INSERT INTO notify.audit (actor, action, target, affected, detail) VALUES (actor, action, target, affected, detail)
    RETURNING affected
$$;

-- Closes one session, on whatever node. Answers with the user whose it is, NULL when there is no such session. Primary key.
CREATE FUNCTION notify.close_session(actor text, session uuid) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    owner text;
BEGIN
    SELECT s.user_id INTO owner FROM notify.session AS s WHERE s.id = session;
    IF FOUND THEN
        INSERT INTO notify.node_order (session_id, code) VALUES (session, 4410);
        PERFORM notify.write_audit(actor, 'close', owner, 1, 'session ' || session);
        PERFORM notify.call_nodes();
    END IF;
    RETURN owner;
END $$;

-- Closes every session of a user, on all nodes. Answers with how many are known of. session_owner.
CREATE FUNCTION notify.disconnect(actor text, owner text) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    open bigint;
BEGIN
    SELECT count(*) INTO open FROM notify.session AS s WHERE s.user_id = owner;
    INSERT INTO notify.node_order (user_id, code) VALUES (owner, 4410);
    PERFORM notify.call_nodes();
    RETURN notify.write_audit(actor, 'disconnect', owner, open);
END $$;

-- Puts a subject or a `jti` on the deny list, if there is room. Answers with whether it is on it now. Primary key; the list is
-- short, since every node holds it in memory.
CREATE FUNCTION notify.deny(actor text, kind text, value text, max_denials bigint) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM notify.denial AS d WHERE d.kind = deny.kind AND d.value = deny.value) THEN
        RETURN true;
    END IF;
    IF (SELECT count(*) FROM notify.denial) >= max_denials THEN
        RETURN false;
    END IF;
    INSERT INTO notify.denial (kind, value, actor) VALUES (deny.kind, deny.value, deny.actor) ON CONFLICT DO NOTHING;
    PERFORM notify.write_audit(actor, 'deny', value, (SELECT count(*) FROM notify.session AS s
        WHERE CASE deny.kind WHEN 'sub' THEN s.user_id = deny.value ELSE s.token_id = deny.value END), kind);
    PERFORM notify.call_nodes();
    RETURN true;
END $$;

-- Takes it off again. Answers with whether it was on it. Primary key.
CREATE FUNCTION notify.allow(actor text, kind text, value text) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM notify.denial AS d WHERE d.kind = allow.kind AND d.value = allow.value;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM notify.write_audit(actor, 'allow', value, 1, kind);
    PERFORM notify.call_nodes();
    RETURN true;
END $$;

-- A node says that it is alive, which of its sessions opened and closed since it last did, and what it counted. Answers with
-- whether it was known: if not, it has to report all its sessions. Nodes unseen for 30 seconds go, with their sessions.
-- Users with more than max_sessions sessions, of those who opened one now or the time before, lose the oldest ones.
CREATE FUNCTION notify.report(
    node uuid, host text, pid integer, version text, age double precision, sum_age double precision,
    sessions integer, users integer, draining boolean, listening boolean, lag double precision, reconnects integer,
    opened uuid[], owners text[], devices text[], protocols text[], token_ids text[], times double precision[],
    closed uuid[], watched text[], max_sessions integer
) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    moment timestamptz := clock_timestamp();
    known boolean;
    dead uuid[];
BEGIN
    UPDATE notify.node AS n
    SET seen_at = moment, summed_at = moment - make_interval(secs => sum_age), sessions = report.sessions, users = report.users,
        draining = report.draining, listening = report.listening, lag = report.lag, reconnects = report.reconnects
    WHERE n.id = node;
    known := FOUND;
    IF NOT known THEN
        INSERT INTO notify.node (id, host, pid, version, started_at, seen_at, summed_at, sessions, users, draining, listening, lag, reconnects)
        VALUES (node, host, pid, version, moment - make_interval(secs => age), moment, moment - make_interval(secs => sum_age),
                sessions, users, draining, listening, lag, reconnects);
    END IF;
    IF closed <> '{}' THEN
        DELETE FROM notify.session AS s WHERE s.id = ANY (closed);
    END IF;
    IF opened <> '{}' THEN
        INSERT INTO notify.session (id, node_id, user_id, device, protocol, token_id, opened_at)
        SELECT o.id, node, o.user_id, o.device, o.protocol, o.token_id, to_timestamp(o.at)
        FROM unnest(opened, owners, devices, protocols, token_ids, times) AS o (id, user_id, device, protocol, token_id, at)
        ON CONFLICT DO NOTHING;
    END IF;
    IF watched <> '{}' THEN
        INSERT INTO notify.node_order (session_id, code)
        SELECT s.id, 4409 FROM (
            SELECT s.id, row_number() OVER (PARTITION BY s.user_id ORDER BY s.opened_at DESC, s.id DESC) AS place
            FROM notify.session AS s WHERE s.user_id = ANY (watched)
        ) AS s
        WHERE s.place > max_sessions AND NOT EXISTS (SELECT FROM notify.node_order AS o WHERE o.session_id = s.id);
        IF FOUND THEN
            PERFORM notify.call_nodes();
        END IF;
    END IF;
    WITH gone AS (
        DELETE FROM notify.node AS n WHERE n.id IN (
            SELECT d.id FROM notify.node AS d WHERE d.seen_at < moment - interval '30 seconds' ORDER BY d.id FOR UPDATE SKIP LOCKED
        ) RETURNING n.id
    )
    SELECT array_agg(g.id) INTO dead FROM gone AS g;
    IF dead IS NOT NULL THEN
        DELETE FROM notify.session AS s WHERE s.node_id = ANY (dead);
    END IF;
    DELETE FROM notify.node_order AS o WHERE o.at < moment - interval '10 minutes';
    RETURN known;
END $$;

-- What a node did since it last said so, and what its producers did. Samples are kept for two hours, production for a week.
CREATE FUNCTION notify.record_activity(
    node uuid, seconds double precision, sent bigint, delivered bigint, acked bigint, latency bigint[],
    producers text[], notifications bigint[], recipients bigint[], refused bigint[]
) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    moment timestamptz := clock_timestamp();
BEGIN
    INSERT INTO notify.sample (at, node_id, seconds, sent, delivered, acked, latency)
    VALUES (moment, node, seconds, sent, delivered, acked, latency);
    INSERT INTO notify.production AS p (hour, producer, notifications, recipients, refused, seen_at)
    SELECT date_trunc('hour', moment), r.producer, r.notifications, r.recipients, r.refused, moment
    FROM unnest(producers, notifications, recipients, refused) AS r (producer, notifications, recipients, refused)
    ORDER BY r.producer
    ON CONFLICT (hour, producer) DO UPDATE
    SET notifications = p.notifications + excluded.notifications, recipients = p.recipients + excluded.recipients,
        refused = p.refused + excluded.refused, seen_at = excluded.seen_at;
    DELETE FROM notify.sample AS s WHERE s.at < moment - interval '2 hours';
    DELETE FROM notify.production AS p WHERE p.hour < moment - interval '7 days';
END $$;
