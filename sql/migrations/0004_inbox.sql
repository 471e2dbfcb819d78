-- Whether an entry that expired was still in its mailbox's unread count at that time: neither ended nor read before.
CREATE FUNCTION notify.counts_as_unread(reader text, entry_seq bigint, expires_at timestamptz) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT NOT EXISTS (SELECT FROM notify.ending AS x WHERE x.user_id = reader AND x.seq = entry_seq)
       AND COALESCE(notify.read_at(reader, entry_seq) > expires_at, true)
$$;

-- What expired by a moment and is in the unread count of a user still, because it was not swept yet. That is little, and looked at
-- to 1,000: `looked` says how far. notification_unswept and entry_notification. The moment is compared in a query of its own, here
-- and wherever an index shall stop at it: a volatile function beside a column makes PostgreSQL go through the whole index.
CREATE FUNCTION notify.count_unswept(reader text, moment timestamptz, OUT counted bigint, OUT looked bigint)
LANGUAGE sql VOLATILE AS $$
    SELECT count(*) FILTER (WHERE CASE WHEN e.seq IS NOT NULL THEN notify.counts_as_unread(reader, e.seq, n.expires_at) END),
           count(DISTINCT n.id)
    FROM (
        SELECT n.id, n.expires_at FROM notify.notification AS n
        WHERE NOT n.swept AND n.expires_at <= (SELECT moment) ORDER BY n.expires_at LIMIT 1000
    ) AS n
    LEFT JOIN LATERAL (  -- one probe each, from this side: OFFSET 0 keeps the planner from turning it round
        SELECT e.seq FROM notify.entry AS e WHERE e.notification_id = n.id AND e.user_id = reader AND e.kind = 1 OFFSET 0
    ) AS e ON true
$$;

-- The unread of a user at this moment: the count that is kept, less what expired and was not swept yet. Primary key.
CREATE FUNCTION notify.unread(reader text) RETURNS bigint
LANGUAGE sql VOLATILE AS $$
    SELECT m.unread - (SELECT w.counted FROM notify.count_unswept(reader, clock_timestamp()) AS w)
    FROM notify.mailbox AS m WHERE m.user_id = reader
$$;

-- How many unread notifications that are not over lie in (after_seq, to_seq] of a mailbox, above its read mark. Looks at each:
-- primary keys; OFFSET 0 keeps the planner from going through all endings and marks for each of thousands (10,000: 5 s).
CREATE FUNCTION notify.count_unread_between(reader text, after_seq bigint, to_seq bigint, moment timestamptz) RETURNS bigint
LANGUAGE sql STABLE AS $$
    SELECT count(*)
    FROM notify.entry AS e
    CROSS JOIN LATERAL (SELECT FROM notify.notification AS n WHERE n.id = e.notification_id AND n.expires_at > moment OFFSET 0) AS n
    WHERE e.user_id = reader AND e.seq > after_seq AND e.seq <= to_seq AND e.kind = 1
      AND NOT EXISTS (SELECT FROM notify.ending AS x WHERE x.user_id = reader AND x.seq = e.seq OFFSET 0)
      AND NOT EXISTS (SELECT FROM notify.reading AS r WHERE r.user_id = reader AND NOT r.ranged AND r.to_seq = e.seq OFFSET 0)
$$;

-- How many of them a mark would make read. Above a thousand entries the unread beyond the mark are counted instead, and taken from
-- the count that is kept, if they are fewer: whoever marks read what is on the screen has little beyond it and, perhaps, years
-- below. The caller holds the mailbox.
CREATE FUNCTION notify.count_fresh(box notify.mailbox, mark bigint, moment timestamptz) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    unswept record;
    fresh bigint;
BEGIN
    IF mark - box.read_to > 1000 AND box.head - mark < mark - box.read_to THEN
        SELECT * INTO unswept FROM notify.count_unswept(box.user_id, moment);
        IF unswept.looked < 1000 THEN
            fresh := box.unread - unswept.counted - notify.count_unread_between(box.user_id, mark, box.head, moment);
            IF fresh > 0 THEN
                RETURN fresh;
            END IF;
        END IF;
    END IF;
    RETURN notify.count_unread_between(box.user_id, box.read_to, mark, moment);
END $$;

-- Marks notifications read, by a mark up to a seq or one by one, and tells every device with one entry. Answers with the
-- unread that are left, or NULL when there is no such mailbox. What isn't there, is over, or is read already is passed over:
-- a mark that changes nothing leaves no trace. Primary keys.
CREATE FUNCTION notify.mark_read(reader text, up_to bigint, chosen bigint[]) RETURNS bigint
LANGUAGE plpgsql SET lock_timeout = '250ms' SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    box notify.mailbox%ROWTYPE;
    moment timestamptz;
    mark bigint;
    newly bigint[];
    fresh bigint;
BEGIN
    SELECT * INTO box FROM notify.mailbox AS m WHERE m.user_id = reader FOR UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    moment := clock_timestamp();
    IF up_to IS NOT NULL THEN
        mark := LEAST(up_to, box.head);
        fresh := notify.count_fresh(box, mark, moment);
    ELSE
        SELECT array_agg(e.seq ORDER BY e.seq), count(*) INTO newly, fresh
        FROM (SELECT DISTINCT unnest(chosen) AS seq) AS w
        -- OFFSET 0 keeps the planner from rearranging look-ups by the whole key.
        CROSS JOIN LATERAL (SELECT * FROM notify.entry AS e WHERE e.user_id = reader AND e.seq = w.seq AND e.kind = 1 OFFSET 0) AS e
        JOIN notify.notification AS n ON n.id = e.notification_id
        WHERE e.seq > box.read_to AND n.expires_at > moment
          AND NOT EXISTS (SELECT FROM notify.ending AS x WHERE x.user_id = reader AND x.seq = e.seq OFFSET 0)
          AND NOT EXISTS (SELECT FROM notify.reading AS r WHERE r.user_id = reader AND NOT r.ranged AND r.to_seq = e.seq OFFSET 0);
    END IF;
    IF fresh > 0 THEN
        IF mark IS NOT NULL THEN
            INSERT INTO notify.reading (user_id, ranged, to_seq, after_seq, at)
            VALUES (reader, true, mark, box.read_to, moment);
        ELSE
            INSERT INTO notify.reading (user_id, ranged, to_seq, after_seq, at)
            SELECT reader, false, s, s - 1, moment FROM unnest(newly) AS s;
        END IF;
        UPDATE notify.mailbox AS m
        SET head = m.head + 1, unread = m.unread - fresh, read_to = GREATEST(m.read_to, mark)
        WHERE m.user_id = reader;
        INSERT INTO notify.entry (user_id, seq, kind, target, seqs, unread, at)
        VALUES (reader, box.head + 1, 3, mark, newly, notify.unread(reader), moment);
        PERFORM notify.wake(ARRAY[reader]);
    END IF;
    RETURN notify.unread(reader);
END $$;

-- Takes what expired out of the unread counts, a few notifications and recipients a call; answers with how many notifications.
-- One sweeper at a time in the cluster. A notification one of whose mailboxes somebody holds is left for the next call, and
-- those behind it are looked at instead. One that is still being released is left as well: its entries are yet to come.
-- notification_unswept, entry_notification; waits for nobody.
CREATE FUNCTION notify.sweep_expired(max_notifications integer, max_recipients integer) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    moment timestamptz := clock_timestamp();
    expired uuid[];
    free uuid[];
    held text[];
    left_alone bigint := 0;
    swept bigint := 0;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('notify sweep', 2)) THEN
        RETURN 0;
    END IF;
    WHILE swept = 0 AND left_alone < 10 * max_notifications LOOP
        SELECT array_agg(n.id) INTO expired FROM (
            SELECT n.id, sum(n.recipients) OVER (ORDER BY n.expires_at, n.id) - n.recipients AS before FROM (
                SELECT n.id, n.expires_at, n.recipients FROM notify.notification AS n
                WHERE NOT n.swept AND n.expires_at <= moment
                  AND NOT EXISTS (SELECT FROM notify.outbox AS o WHERE o.id = n.id AND o.problem IS NULL)
                ORDER BY n.expires_at, n.id OFFSET left_alone LIMIT max_notifications
            ) AS n
        ) AS n WHERE n.before < max_recipients;
        EXIT WHEN expired IS NULL;
        SELECT array_agg(m.user_id) INTO held FROM (
            SELECT m.user_id FROM notify.mailbox AS m
            WHERE m.user_id IN (SELECT e.user_id FROM notify.entry AS e WHERE e.notification_id = ANY (expired) AND e.kind = 1)
            ORDER BY m.user_id FOR UPDATE SKIP LOCKED
        ) AS m;
        SELECT COALESCE(array_agg(x.id), '{}') INTO free FROM unnest(expired) AS x (id)
        WHERE x.id NOT IN (
            SELECT e.notification_id FROM notify.entry AS e
            WHERE e.notification_id = ANY (expired) AND e.kind = 1 AND e.user_id NOT IN (SELECT unnest(held))
        );
        UPDATE notify.mailbox AS m SET unread = m.unread - w.n
        FROM (
            SELECT e.user_id, count(*) AS n
            FROM notify.entry AS e JOIN notify.notification AS n ON n.id = e.notification_id
            WHERE e.notification_id = ANY (free) AND e.kind = 1 AND notify.counts_as_unread(e.user_id, e.seq, n.expires_at)
            GROUP BY e.user_id
        ) AS w WHERE m.user_id = w.user_id;
        UPDATE notify.notification AS n SET swept = true WHERE n.id = ANY (free);
        swept := swept + cardinality(free);
        left_alone := left_alone + cardinality(expired) - cardinality(free);
    END LOOP;
    RETURN swept;
END $$;

-- Withdraws entries from everyone who has not acknowledged them: each ends as cancelled, and a device that may hold it gets a
-- retract. Answers with how many were withdrawn. Entries that were acknowledged, are over, or expired stay as they are.
-- Mailboxes, then cursors, both in sorted order, so that nobody acknowledges or collapses meanwhile. Primary keys: OFFSET 0 and the
-- settings keep the planner from going through a user's, or everybody's, entries for each of thousands (10,000 of one: 86 s).
CREATE FUNCTION notify.withdraw(users text[], entries bigint[]) RETURNS bigint
LANGUAGE plpgsql SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    moment timestamptz;
    ended_users text[];
    ended_seqs bigint[];
BEGIN
    PERFORM 1 FROM notify.mailbox AS m WHERE m.user_id = ANY (users) ORDER BY m.user_id FOR UPDATE;
    PERFORM 1 FROM notify.cursor AS c WHERE c.user_id = ANY (users) ORDER BY c.user_id, c.device FOR UPDATE;
    moment := clock_timestamp();
    WITH ended AS (
        INSERT INTO notify.ending (user_id, seq, reason, at)
        SELECT e.user_id, e.seq, 1, moment
        FROM unnest(users, entries) AS r (u, s)
        JOIN notify.mailbox AS m ON m.user_id = r.u AND m.floor < r.s
        CROSS JOIN LATERAL (SELECT * FROM notify.entry AS e WHERE e.user_id = r.u AND e.seq = r.s AND e.kind = 1 OFFSET 0) AS e
        JOIN notify.notification AS n ON n.id = e.notification_id AND n.expires_at > moment
        WHERE e.seq > COALESCE((SELECT max(c.seq) FROM notify.cursor AS c WHERE c.user_id = e.user_id), 0)
        ON CONFLICT DO NOTHING
        RETURNING user_id, seq
    )
    SELECT array_agg(x.user_id ORDER BY x.user_id, x.seq), array_agg(x.seq ORDER BY x.user_id, x.seq)
    INTO ended_users, ended_seqs FROM ended AS x;
    IF ended_users IS NULL THEN
        RETURN 0;
    END IF;
    UPDATE notify.mailbox AS m SET head = m.head + w.n, unread = m.unread - w.unread
    FROM (
        SELECT x.u, count(*) AS n, count(*) FILTER (WHERE NOT notify.is_read(x.u, x.s)) AS unread
        FROM unnest(ended_users, ended_seqs) AS x (u, s) GROUP BY x.u
    ) AS w WHERE m.user_id = w.u;
    INSERT INTO notify.entry (user_id, seq, kind, notification_id, target, at)
    SELECT x.u, m.head + 1 - row_number() OVER (PARTITION BY x.u ORDER BY x.s DESC), 2, e.notification_id, x.s, moment
    FROM unnest(ended_users, ended_seqs) AS x (u, s)
    JOIN notify.mailbox AS m ON m.user_id = x.u
    CROSS JOIN LATERAL (SELECT * FROM notify.entry AS e WHERE e.user_id = x.u AND e.seq = x.s OFFSET 0) AS e;
    PERFORM notify.wake(ended_users);
    RETURN cardinality(ended_users);
END $$;

-- Cancels a notification of a producer (of anybody's, when that is NULL). Answers with how many recipients it was withdrawn
-- from, or NULL when there is no such notification. What is still scheduled, be it for some of them, is never released.
-- entry_notification. Waits for a locked mailbox only shortly, since it holds the others meanwhile; the caller tries again.
CREATE FUNCTION notify.cancel(notification uuid, by_producer text) RETURNS bigint
LANGUAGE plpgsql SET lock_timeout = '50ms' AS $$
DECLARE
    waiting text[];
    users text[];
    entries bigint[];
BEGIN
    PERFORM 1 FROM notify.notification AS n WHERE n.id = notification AND (by_producer IS NULL OR n.producer = by_producer);
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    UPDATE notify.outbox AS o SET problem = 'cancelled' WHERE o.id = notification AND o.problem IS NULL RETURNING o.users INTO waiting;
    SELECT array_agg(e.user_id), array_agg(e.seq) INTO users, entries
    FROM notify.entry AS e WHERE e.notification_id = notification AND e.kind = 1;
    RETURN COALESCE(cardinality(waiting), 0) + CASE WHEN users IS NULL THEN 0 ELSE notify.withdraw(users, entries) END;
END $$;
