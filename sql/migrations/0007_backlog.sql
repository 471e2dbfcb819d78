-- What is pending where, kept so that nobody has to count it, and what admins do with it: replay, purge, cancel, erase.

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

-- The outbox by recipient: an erased user leaves nothing there.
CREATE INDEX outbox_users ON notify.outbox USING gin (users);

-- What no device has acknowledged of a mailbox begins after this. Primary keys.
CREATE FUNCTION notify.acknowledged_to(owner text) RETURNS bigint
LANGUAGE sql STABLE AS $$
    SELECT GREATEST(m.floor, COALESCE((SELECT max(c.seq) FROM notify.cursor AS c WHERE c.user_id = owner), 0))
    FROM notify.mailbox AS m WHERE m.user_id = owner
$$;

-- Functions that are handed long arrays look up each element by its whole key. Left to itself, and to statistics that know of no
-- such user, the planner would go through the user's entries for each of them (10,000: 86 s), or through everybody's: hence
-- OFFSET 0, which keeps it from rearranging a look-up, and no other plans than look-ups.

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
        SELECT u.user_id, COALESCE(m.head, 0) AS head,
               GREATEST(m.floor, (SELECT max(c.seq) FROM notify.cursor AS c WHERE c.user_id = u.user_id), 0) AS base
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
                       e.kind = 1 AND n.expires_at > moment
                       AND NOT EXISTS (SELECT FROM notify.ending AS x WHERE x.user_id = e.user_id AND x.seq = e.seq OFFSET 0) AS live
                FROM notify.entry AS e
                LEFT JOIN notify.notification AS n ON e.kind = 1 AND n.id = e.notification_id
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
        SELECT b.user_id FROM notify.backlog AS b WHERE b.next_expiry <= (SELECT clock_timestamp()) ORDER BY b.next_expiry LIMIT max_mailboxes
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

-- Queues again, under new seqs and with their old ids, every notification after a seq that is not over. The old entry ends
-- with reason 4 without a retract: whoever has it gets the same notification again. Answers with how many; with -1, and nothing
-- done, when they would not fit into the mailbox. Primary keys; the mailbox is held.
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
    -- One more than fit is enough to know that they are too many: a mailbox may hold a million.
    SELECT array_agg(f.notification_id ORDER BY f.seq), array_agg(f.seq ORDER BY f.seq) INTO ids, seqs FROM (
        SELECT e.notification_id, e.seq
        FROM notify.entry AS e JOIN notify.notification AS n ON n.id = e.notification_id
        WHERE e.user_id = owner AND e.seq > after AND e.kind = 1 AND n.expires_at > moment
          AND NOT EXISTS (SELECT FROM notify.ending AS x WHERE x.user_id = owner AND x.seq = e.seq OFFSET 0)
        ORDER BY e.seq LIMIT max_pending + 1
    ) AS f;
    IF cardinality(ids) > max_pending THEN
        RETURN -1;
    END IF;
    IF ids IS NOT NULL THEN
        UPDATE notify.mailbox AS m
        SET unread = m.unread - (SELECT count(*) FROM unnest(seqs) AS s WHERE NOT notify.is_read(owner, s))
        WHERE m.user_id = owner;
        INSERT INTO notify.ending (user_id, seq, reason, at) SELECT owner, s, 4, moment FROM unnest(seqs) AS s;
        PERFORM notify.number(ids, array_fill(owner, ARRAY[cardinality(ids)]), array_fill(NULL::text, ARRAY[cardinality(ids)]), max_pending);
        INSERT INTO notify.collapse_slot (user_id, key, seq)
        SELECT owner, k.collapse_key, max(k.seq) FROM (
            SELECT n.collapse_key, (
                SELECT max(e.seq + 0) FROM notify.entry AS e
                WHERE e.notification_id = n.id AND e.user_id = owner AND e.kind = 1
            ) AS seq
            FROM notify.notification AS n WHERE n.id = ANY (ids) AND n.collapse_key IS NOT NULL OFFSET 0
        ) AS k GROUP BY k.collapse_key
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
      AND NOT EXISTS (SELECT FROM notify.ending AS x WHERE x.user_id = owner AND x.seq = e.seq OFFSET 0);
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
      AND NOT EXISTS (SELECT FROM notify.entry AS e WHERE e.notification_id = n.id AND e.kind = 1 OFFSET 0)
      AND NOT EXISTS (SELECT FROM notify.outbox AS o WHERE o.id = n.id OFFSET 0);
    PERFORM notify.refresh_backlog(ARRAY[owner]);
    INSERT INTO notify.node_order (user_id, code) VALUES (owner, 1013);
    PERFORM notify.call_nodes();
    RETURN notify.write_audit(actor, 'erase', owner, cardinality(ids));
END $$;
