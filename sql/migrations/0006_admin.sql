-- What admins see and do: nodes and sessions across processes, orders to nodes, the deny list, the audit log, the backlog.

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

-- The outbox by recipient: an erased user leaves nothing there.
CREATE INDEX outbox_users ON notify.outbox USING gin (users);

-- The backlog: one row a mailbox in which anything lies beyond what its devices acknowledged, so that nobody who looks has to
-- go through all mailboxes. Kept by whoever touches a mailbox, a second or two later (notify.refresh_backlog).
CREATE TABLE notify.backlog (
    user_id text COLLATE "C" PRIMARY KEY,
    base bigint NOT NULL,                 -- the mailbox as it was looked at: acknowledged or gone up to here ...
    head bigint NOT NULL,                 -- ... and counted up to here
    pending bigint NOT NULL,
    oldest_seq bigint,
    oldest_at timestamptz,
    next_expiry timestamptz NOT NULL      -- when the first of the pending expires
) WITH (fillfactor = 70);
CREATE INDEX backlog_depth ON notify.backlog (pending, user_id) WHERE pending > 0;
CREATE INDEX backlog_age ON notify.backlog (oldest_at, user_id) WHERE pending > 0;
CREATE INDEX backlog_expiry ON notify.backlog (next_expiry);

-- The backlog as a whole. keeper: the node that at the moment follows the wake-ups; its lease ends at kept_until.
CREATE TABLE notify.backlog_state (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    as_of timestamptz NOT NULL DEFAULT now(),
    mailboxes bigint NOT NULL DEFAULT 0,
    pending bigint NOT NULL DEFAULT 0,
    keeper uuid,
    kept_until timestamptz NOT NULL DEFAULT '-infinity'
) WITH (fillfactor = 50);
INSERT INTO notify.backlog_state DEFAULT VALUES;
INSERT INTO notify.walk (kind) VALUES ('backlog');

-- What no device has acknowledged of a mailbox begins after this. Primary keys.
CREATE FUNCTION notify.acknowledged_to(owner text) RETURNS bigint
LANGUAGE sql STABLE AS $$
    SELECT GREATEST(m.floor, COALESCE((SELECT max(c.seq) FROM notify.cursor AS c WHERE c.user_id = owner), 0))
    FROM notify.mailbox AS m WHERE m.user_id = owner
$$;

-- Functions that are handed long arrays reach tables by their keys alone. Left to itself, the planner would rather read a
-- whole table of entries than look ten thousand of them up (33 s instead of 0.3, with two million entries).
ALTER FUNCTION notify.withdraw(text[], bigint[]) SET enable_seqscan = off;
ALTER FUNCTION notify.withdraw(text[], bigint[]) SET enable_hashjoin = off;
ALTER FUNCTION notify.withdraw(text[], bigint[]) SET enable_mergejoin = off;

-- Brings the backlog up to date for some users. One at a time in the cluster, so that who looks last writes last.
-- A mailbox that has only grown is counted from where the last look ended: every entry that ended since has a retract beyond
-- it, unless it lies beyond it itself. Where devices acknowledged, something expired, or the oldest went, it is counted
-- afresh: what was pending is usually little then. `afresh` demands it (a replay ends entries without retracts).
-- Primary keys of mailbox, cursor, entry, ending and notification.
CREATE FUNCTION notify.refresh_backlog(users text[], afresh boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql SET lock_timeout = '2s'
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    moment timestamptz;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('notify backlog', 2));
    moment := clock_timestamp();
    WITH standing AS MATERIALIZED (
        SELECT u.user_id, COALESCE(m.head, 0) AS head, COALESCE(notify.acknowledged_to(m.user_id), 0) AS base
        FROM (SELECT DISTINCT unnest(users) AS user_id) AS u LEFT JOIN notify.mailbox AS m ON m.user_id = u.user_id
    ), stale AS MATERIALIZED (
        SELECT s.user_id, s.head, s.base, b.head AS counted_to, COALESCE(b.pending, 0) AS was_pending,
               b.oldest_seq, b.oldest_at, b.next_expiry,
               NOT afresh AND b.user_id IS NOT NULL AND b.base = s.base AND b.head <= s.head AND b.next_expiry > moment
               AND NOT EXISTS (
                   SELECT FROM notify.entry AS e
                   WHERE e.user_id = s.user_id AND e.seq > b.head AND e.kind = 2 AND e.target = b.oldest_seq
               ) AS grown
        FROM standing AS s LEFT JOIN notify.backlog AS b ON b.user_id = s.user_id
        WHERE CASE WHEN b.user_id IS NULL THEN s.head > s.base
                   ELSE afresh OR b.head <> s.head OR b.base <> s.base OR b.next_expiry <= moment END
    ), counted AS MATERIALIZED (
        SELECT s.user_id, s.head, s.base, s.was_pending,
               f.live - f.retracted + CASE WHEN s.grown THEN s.was_pending ELSE 0 END AS pending,
               CASE WHEN s.grown AND s.was_pending > 0 THEN s.oldest_seq ELSE f.oldest_seq END AS oldest_seq,
               CASE WHEN s.grown AND s.was_pending > 0 THEN s.oldest_at ELSE f.oldest_at END AS oldest_at,
               LEAST(CASE WHEN s.grown THEN s.next_expiry END, f.next_expiry) AS next_expiry
        FROM stale AS s
        CROSS JOIN LATERAL (
            SELECT count(*) FILTER (WHERE e.live) AS live,
                   count(*) FILTER (WHERE s.grown AND e.kind = 2 AND e.target > s.base AND e.target <= s.counted_to) AS retracted,
                   min(e.seq) FILTER (WHERE e.live) AS oldest_seq,
                   min(e.at) FILTER (WHERE e.live) AS oldest_at,
                   min(e.expires_at) FILTER (WHERE e.live) AS next_expiry
            FROM (
                SELECT e.seq, e.kind, e.target, e.at, n.expires_at,
                       e.kind = 1 AND x.seq IS NULL AND n.expires_at > moment AS live
                FROM notify.entry AS e
                LEFT JOIN notify.notification AS n ON e.kind = 1 AND n.id = e.notification_id
                LEFT JOIN notify.ending AS x ON e.kind = 1 AND x.user_id = e.user_id AND x.seq = e.seq
                WHERE e.user_id = s.user_id AND e.seq > CASE WHEN s.grown THEN s.counted_to ELSE s.base END AND e.seq <= s.head
            ) AS e
        ) AS f
    ), emptied AS (
        DELETE FROM notify.backlog AS b USING counted AS c WHERE b.user_id = c.user_id AND c.head <= c.base
    ), kept AS (
        INSERT INTO notify.backlog AS b (user_id, base, head, pending, oldest_seq, oldest_at, next_expiry)
        SELECT c.user_id, c.base, c.head, c.pending, c.oldest_seq, c.oldest_at, COALESCE(c.next_expiry, 'infinity')
        FROM counted AS c WHERE c.head > c.base ORDER BY c.user_id
        ON CONFLICT (user_id) DO UPDATE
        SET base = excluded.base, head = excluded.head, pending = excluded.pending, oldest_seq = excluded.oldest_seq,
            oldest_at = excluded.oldest_at, next_expiry = excluded.next_expiry
    ), change AS (
        SELECT sum(c.pending - c.was_pending) AS pending,
               count(*) FILTER (WHERE c.pending > 0) - count(*) FILTER (WHERE c.was_pending > 0) AS mailboxes
        FROM counted AS c
    )
    UPDATE notify.backlog_state AS s SET pending = s.pending + c.pending, mailboxes = s.mailboxes + c.mailboxes
    FROM change AS c WHERE c.pending <> 0 OR c.mailboxes <> 0;
END $$;

-- Takes a step through all mailboxes and looks at those in which something expired: what got lost between a commit and its
-- look is found in the end. Answers with how many were looked at. Primary keys; backlog_expiry.
CREATE FUNCTION notify.walk_backlog(max_mailboxes integer) RETURNS bigint
LANGUAGE plpgsql SET lock_timeout = '2s' AS $$
DECLARE
    place text;
    users text[];
    expired text[];
BEGIN
    SELECT w.user_id INTO place FROM notify.walk AS w WHERE w.kind = 'backlog' FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN 0;
    END IF;
    SELECT array_agg(m.user_id ORDER BY m.user_id) INTO users
    FROM (SELECT m.user_id FROM notify.mailbox AS m WHERE m.user_id > place ORDER BY m.user_id LIMIT max_mailboxes) AS m;
    SELECT array_agg(b.user_id) INTO expired FROM (
        SELECT b.user_id FROM notify.backlog AS b WHERE b.next_expiry <= clock_timestamp() ORDER BY b.next_expiry LIMIT max_mailboxes
    ) AS b;
    PERFORM notify.refresh_backlog(COALESCE(users, '{}') || COALESCE(expired, '{}'));
    UPDATE notify.walk AS w SET user_id = COALESCE(users[cardinality(users)], '') WHERE w.kind = 'backlog';
    RETURN COALESCE(cardinality(users), 0) + COALESCE(cardinality(expired), 0);
END $$;

-- A page of the backlog, deepest or oldest first, of users whose ids begin with a prefix, after a place. Planned for its very
-- arguments: by the order where many match, by the ids where few do. backlog_depth, backlog_age, the primary key.
CREATE FUNCTION notify.list_backlog(
    sort text, prefix text, after_pending bigint, after_oldest timestamptz, after_user text, max_rows integer
) RETURNS TABLE (user_id text, pending bigint, oldest_at timestamptz)
LANGUAGE plpgsql STABLE SET plan_cache_mode = 'force_custom_plan' AS $$
BEGIN
    IF sort = 'depth' THEN
        RETURN QUERY SELECT b.user_id, b.pending, b.oldest_at FROM notify.backlog AS b
        WHERE b.pending > 0 AND b.user_id ^@ prefix AND (b.pending, b.user_id) < (after_pending, after_user)
        ORDER BY b.pending DESC, b.user_id DESC LIMIT max_rows;
    ELSE
        RETURN QUERY SELECT b.user_id, b.pending, b.oldest_at FROM notify.backlog AS b
        WHERE b.pending > 0 AND b.user_id ^@ prefix AND (b.oldest_at, b.user_id) > (after_oldest, after_user)
        ORDER BY b.oldest_at, b.user_id LIMIT max_rows;
    END IF;
END $$;

-- How each recipient of a notification stands (see 0002). An entry that was queued again ended with reason 4, which is no fate:
-- the first acknowledgement and the first mark of any of the entries count, the fate is that of the newest.
CREATE OR REPLACE FUNCTION notify.receipts(notification uuid)
RETURNS TABLE (user_id text, seq bigint, status text, delivered_at timestamptz, read_at timestamptz)
LANGUAGE sql STABLE AS $$
    SELECT w.user_id, max(w.seq),
        CASE WHEN min(w.acked_at) IS NULL THEN (array_agg(w.fate ORDER BY w.seq DESC))[1]
             WHEN min(w.read_at) IS NOT NULL THEN 'read' ELSE 'delivered' END,
        min(w.acked_at), min(w.read_at)
    FROM (
        SELECT e.user_id, e.seq, r.at AS read_at,
            CASE WHEN a.at <= LEAST(x.at, n.expires_at) THEN a.at END AS acked_at,
            CASE
                WHEN x.at <= n.expires_at THEN (ARRAY['cancelled', 'collapsed', 'expired'])[x.reason]
                WHEN n.expires_at <= clock_timestamp() THEN 'expired'
                ELSE 'pending'
            END AS fate
        FROM notify.entry AS e
        JOIN notify.notification AS n ON n.id = e.notification_id
        LEFT JOIN notify.ending AS x ON x.user_id = e.user_id AND x.seq = e.seq
        LEFT JOIN LATERAL (
            SELECT min(f.at) AS at
            FROM notify.cursor AS c
            CROSS JOIN LATERAL (
                SELECT h.at, h.after_seq FROM notify.ack AS h
                WHERE h.user_id = c.user_id AND h.device = c.device AND h.to_seq >= e.seq ORDER BY h.to_seq LIMIT 1
            ) AS f
            WHERE c.user_id = e.user_id AND c.seq >= e.seq AND f.after_seq < e.seq
        ) AS a ON true
        LEFT JOIN LATERAL (SELECT notify.read_at(e.user_id, e.seq) AS at) AS r ON true
        WHERE e.notification_id = notification AND e.kind = 1
    ) AS w
    GROUP BY w.user_id
$$;

-- Tells every node that there are orders, or that the deny list changed.
CREATE FUNCTION notify.call_nodes() RETURNS void
LANGUAGE sql AS $$ SELECT pg_notify('notify_order', '') $$;

-- Writes down an act. Answers with the number given, so that an act can end with it.
CREATE FUNCTION notify.write_audit(actor text, action text, target text, affected bigint, detail text DEFAULT NULL) RETURNS bigint
LANGUAGE sql AS $$
    INSERT INTO notify.audit (actor, action, target, affected, detail) VALUES (actor, action, target, affected, detail)
    RETURNING affected
$$;

-- Queues again, under new seqs and with their old ids, every notification after a seq that is not over. The old entry ends
-- with reason 4 without a retract: whoever has it gets the same notification again. Answers with how many; with minus how many,
-- and nothing done, when they would not fit into the mailbox. Primary keys; the mailbox is held.
CREATE FUNCTION notify.replay(actor text, owner text, after bigint, max_pending bigint) RETURNS bigint
LANGUAGE plpgsql SET lock_timeout = '2s'
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    moment timestamptz;
    ids uuid[];
    seqs bigint[];
BEGIN
    PERFORM 1 FROM notify.mailbox AS m WHERE m.user_id = owner FOR UPDATE;
    moment := clock_timestamp();
    SELECT array_agg(e.notification_id ORDER BY e.seq), array_agg(e.seq ORDER BY e.seq) INTO ids, seqs
    FROM notify.entry AS e JOIN notify.notification AS n ON n.id = e.notification_id
    WHERE e.user_id = owner AND e.seq > after AND e.kind = 1 AND n.expires_at > moment
      AND NOT EXISTS (SELECT FROM notify.ending AS x WHERE x.user_id = owner AND x.seq = e.seq);
    IF cardinality(ids) > max_pending THEN
        RETURN -cardinality(ids);
    END IF;
    IF ids IS NOT NULL THEN
        UPDATE notify.mailbox AS m
        SET unread = m.unread - (SELECT count(*) FROM unnest(seqs) AS s WHERE NOT notify.is_read(owner, s))
        WHERE m.user_id = owner;
        INSERT INTO notify.ending (user_id, seq, reason, at) SELECT owner, s, 4, moment FROM unnest(seqs) AS s;
        PERFORM notify.number(ids, array_fill(owner, ARRAY[cardinality(ids)]), array_fill(NULL::text, ARRAY[cardinality(ids)]), max_pending);
        INSERT INTO notify.collapse_slot (user_id, key, seq)
        SELECT owner, n.collapse_key, max(e.seq)
        FROM notify.notification AS n JOIN notify.entry AS e ON e.notification_id = n.id AND e.kind = 1 AND e.user_id = owner
        WHERE n.id = ANY (ids) AND n.collapse_key IS NOT NULL GROUP BY n.collapse_key
        ON CONFLICT (user_id, key) DO UPDATE SET seq = GREATEST(notify.collapse_slot.seq, excluded.seq);
        PERFORM notify.refresh_backlog(ARRAY[owner], true);
    END IF;
    RETURN notify.write_audit(actor, 'replay', owner, COALESCE(cardinality(ids), 0), 'after ' || after);
END $$;

-- Withdraws everything that is pending in a mailbox. Answers with how many that were. Primary keys.
CREATE FUNCTION notify.purge(actor text, owner text) RETURNS bigint
LANGUAGE plpgsql SET lock_timeout = '2s'
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    seqs bigint[];
    purged bigint := 0;
BEGIN
    PERFORM 1 FROM notify.mailbox AS m WHERE m.user_id = owner FOR UPDATE;
    SELECT array_agg(e.seq) INTO seqs FROM notify.entry AS e
    WHERE e.user_id = owner AND e.kind = 1 AND e.seq > notify.acknowledged_to(owner)
      AND NOT EXISTS (SELECT FROM notify.ending AS x WHERE x.user_id = owner AND x.seq = e.seq);
    IF seqs IS NOT NULL THEN
        purged := notify.withdraw(array_fill(owner, ARRAY[cardinality(seqs)]), seqs);
        PERFORM notify.refresh_backlog(ARRAY[owner]);
    END IF;
    RETURN notify.write_audit(actor, 'purge', owner, purged);
END $$;

-- Cancels anybody's notification. Answers with from how many it was withdrawn, NULL when there is no such one.
CREATE FUNCTION notify.cancel_any(actor text, notification uuid) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    withdrawn bigint := notify.cancel(notification, NULL);
BEGIN
    RETURN CASE WHEN withdrawn IS NOT NULL THEN notify.write_audit(actor, 'cancel', notification::text, withdrawn) END;
END $$;

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

-- Erases everything about a user: every row of every table that has a `user_id`, tables that come later included; the user in
-- what is scheduled; and the payloads that were for nobody else. The mailbox that comes after it is another one, with another
-- epoch. Answers with how many notifications went. What remains is the deny list's and the audit log's.
-- Cursors go before the acks they led to: nobody acknowledges in between. Primary keys, subscription_user, outbox_users.
CREATE FUNCTION notify.erase(actor text, owner text) RETURNS bigint
LANGUAGE plpgsql SET lock_timeout = '2s'
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    ids uuid[];
    waiting uuid[];
    place text;
BEGIN
    WITH taken AS (
        UPDATE notify.outbox AS o SET users = array_remove(o.users, owner) WHERE o.users @> ARRAY[owner] RETURNING o.id
    )
    SELECT array_agg(t.id) INTO waiting FROM taken AS t;
    PERFORM 1 FROM notify.mailbox AS m WHERE m.user_id = owner FOR UPDATE;
    SELECT array_agg(DISTINCT e.notification_id) INTO ids FROM notify.entry AS e WHERE e.user_id = owner AND e.kind = 1;
    DELETE FROM notify.cursor AS c WHERE c.user_id = owner;
    FOR place IN
        SELECT c.relname FROM pg_catalog.pg_class AS c
        JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attname = 'user_id' AND NOT a.attisdropped
        WHERE c.relnamespace = 'notify'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
          AND c.relname NOT IN ('walk', 'session', 'node_order', 'backlog')
        ORDER BY c.relname
    LOOP
        EXECUTE format('DELETE FROM notify.%I WHERE user_id = $1', place) USING owner;
    END LOOP;
    ids := COALESCE(ids, '{}') || COALESCE(waiting, '{}');
    DELETE FROM notify.outbox AS o WHERE o.id = ANY (waiting) AND o.users = '{}';
    DELETE FROM notify.notification AS n
    WHERE n.id = ANY (ids)
      AND NOT EXISTS (SELECT FROM notify.entry AS e WHERE e.notification_id = n.id AND e.kind = 1)
      AND NOT EXISTS (SELECT FROM notify.outbox AS o WHERE o.id = n.id);
    PERFORM notify.refresh_backlog(ARRAY[owner]);
    INSERT INTO notify.node_order (user_id, code) VALUES (owner, 1013);
    PERFORM notify.call_nodes();
    RETURN notify.write_audit(actor, 'erase', owner, cardinality(ids));
END $$;

-- A node says that it is alive, which of its sessions opened and closed since it last did, and what it counted. Answers with
-- whether it was known: if not, it has to report all its sessions. Nodes unseen for 30 seconds go, with their sessions.
-- Users with more than max_sessions sessions, of those who opened one now or the time before, lose the oldest ones.
CREATE FUNCTION notify.report(
    node uuid, host text, pid integer, version text, age double precision, sum_age double precision,
    sessions integer, users integer, draining boolean, listening boolean, lag double precision, reconnects integer,
    opened uuid[], owners text[], devices text[], protocols text[], token_ids text[], ages double precision[],
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
        SELECT o.id, node, o.user_id, o.device, o.protocol, o.token_id, moment - make_interval(secs => o.age)
        FROM unnest(opened, owners, devices, protocols, token_ids, ages) AS o (id, user_id, device, protocol, token_id, age)
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
