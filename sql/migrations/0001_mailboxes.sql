-- A mailbox is a numbered log of entries; every device of its user has a cursor into it.
-- User ids are compared byte by byte (COLLATE "C"): the order in which mailboxes are locked must not depend on a locale.

-- Part of every epoch told to a client; `notify migrate --new-epoch` replaces the salt after a snapshot restore.
CREATE TABLE notify.salt (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    value text NOT NULL DEFAULT gen_random_uuid()::text
);
INSERT INTO notify.salt DEFAULT VALUES;

-- The hot row: every send to a user updates it. Nothing but its key is indexed and half of each page is left free, so
-- that updates stay on their page (https://www.postgresql.org/docs/current/storage-hot.html).
CREATE TABLE notify.mailbox (
    user_id text COLLATE "C" PRIMARY KEY,
    head bigint NOT NULL DEFAULT 0,       -- the last seq given out
    floor bigint NOT NULL DEFAULT 0,      -- everything up to here is gone for good
    unread bigint NOT NULL DEFAULT 0,     -- notifications neither read nor over: kept, not counted
    read_to bigint NOT NULL DEFAULT 0,    -- everything up to here is read
    born uuid NOT NULL DEFAULT gen_random_uuid()  -- tells this mailbox from an erased one of the same user
) WITH (fillfactor = 50);

-- What a producer sent, once, however many recipients; `data` is the producer's own text, never parsed here.
CREATE TABLE notify.notification (
    id uuid PRIMARY KEY,
    producer text NOT NULL,
    type text NOT NULL,
    data bytea NOT NULL,
    codec smallint NOT NULL DEFAULT 0,    -- 0 JSON, 1 MessagePack
    recipients integer NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    collapse_key text,
    context text,                         -- what travels with it beside its data (JSON): the event and the trace it belongs to
    swept boolean NOT NULL DEFAULT false  -- expired, and taken out of the unread counts
);
CREATE INDEX notification_age ON notify.notification (created_at, id);
CREATE INDEX notification_unswept ON notify.notification (expires_at) WHERE NOT swept;

-- Which producers want to hear of a notification that is still pending at a time (`undelivered_after`).
CREATE TABLE notify.deadline (
    id uuid PRIMARY KEY,
    due_at timestamptz NOT NULL
);
CREATE INDEX deadline_due ON notify.deadline (due_at, id);

-- The log. Insert-only. kind: 1 a notification; 2 a retract of `target`; 3 a read mark up to `target` or for `seqs`,
-- after which `unread` were left.
CREATE TABLE notify.entry (
    user_id text COLLATE "C" NOT NULL,
    seq bigint NOT NULL,
    kind smallint NOT NULL,
    notification_id uuid,
    target bigint,
    seqs bigint[],
    unread bigint,
    at timestamptz NOT NULL,
    PRIMARY KEY (user_id, seq)
);
CREATE INDEX entry_notification ON notify.entry (notification_id, user_id) WHERE kind = 1;

-- How an entry ended other than by acknowledgement. The first ending stays. reason: 1 cancelled, 2 collapsed, 3 truncated,
-- 4 queued again under another seq.
CREATE TABLE notify.ending (
    user_id text COLLATE "C" NOT NULL,
    seq bigint NOT NULL,
    reason smallint NOT NULL,
    at timestamptz NOT NULL,
    PRIMARY KEY (user_id, seq)
);

-- The last seq each device has acknowledged. A removed device keeps its row: what it acknowledged stays acknowledged.
CREATE TABLE notify.cursor (
    user_id text COLLATE "C" NOT NULL,
    device text COLLATE "C" NOT NULL,
    seq bigint NOT NULL,
    seen_at timestamptz NOT NULL,
    removed boolean NOT NULL DEFAULT false,
    PRIMARY KEY (user_id, device)
) WITH (fillfactor = 50);

-- The history of the cursors: this flush moved it over (after_seq, to_seq]. Receipts are derived from it.
CREATE TABLE notify.ack (
    user_id text COLLATE "C" NOT NULL,
    device text COLLATE "C" NOT NULL,
    to_seq bigint NOT NULL,
    after_seq bigint NOT NULL,
    at timestamptz NOT NULL,
    PRIMARY KEY (user_id, device, to_seq)
);

-- When what was read: one row a mark. ranged: everything in (after_seq, to_seq]; otherwise to_seq alone.
CREATE TABLE notify.reading (
    user_id text COLLATE "C" NOT NULL,
    ranged boolean NOT NULL,
    to_seq bigint NOT NULL,
    after_seq bigint NOT NULL,
    at timestamptz NOT NULL,
    PRIMARY KEY (user_id, ranged, to_seq)
);

-- Which entry of a mailbox is the newest with a collapse key: the one that the next with that key replaces.
CREATE TABLE notify.collapse_slot (
    user_id text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    seq bigint NOT NULL,
    PRIMARY KEY (user_id, key)
) WITH (fillfactor = 50);

-- What is due later, or was sent inside somebody else's transaction: released in the order of (due_at, id).
-- A row that cannot be released, or need not be any more, says why in `problem` and is out of the way.
CREATE TABLE notify.outbox (
    id uuid PRIMARY KEY,
    due_at timestamptz NOT NULL,
    users text[] NOT NULL,
    problem text                          -- 'cancelled', 'expired', or what PostgreSQL said
);
CREATE INDEX outbox_due ON notify.outbox (due_at, id) WHERE problem IS NULL;

-- The first answer to a request with an Idempotency-Key, for 24 hours.
CREATE TABLE notify.idempotency (
    producer text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    digest bytea NOT NULL,
    ids uuid[] NOT NULL,
    recipients integer NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (producer, key)
);
CREATE INDEX idempotency_age ON notify.idempotency (created_at);

-- A batch whose connection broke and that nobody may commit any more: its sender was told that it was not accepted.
CREATE TABLE notify.abandoned (
    batch uuid PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now()
);

-- Appends one entry a recipient, in the order of the arrays, and wakes the recipients.
-- The arrays run in parallel: the notification, the user and the collapse key (or NULL) of each recipient.
-- Mailboxes are taken in sorted order, so that two batches never wait for each other in a circle; cursors after mailboxes.
-- Every statement in here sees what committed before it started (READ COMMITTED), hence decides on what the locks hold still.
CREATE FUNCTION notify.number(ids uuid[], users text[], keys text[], max_pending bigint) RETURNS void
LANGUAGE plpgsql SET lock_timeout = '250ms' AS $$
DECLARE
    hit_ords bigint[];   -- positions in the arrays whose collapse key replaces a pending entry ...
    hit_users text[];
    hit_seqs bigint[];   -- ... and the seq of that entry
    new_ids uuid[];      -- the new entries' notifications,
    new_users text[];    -- users
    new_seqs bigint[];   -- and seqs
    moment timestamptz;
BEGIN
    -- Gives each mailbox its new head and holds it until the commit; creates those that do not exist. Primary key.
    INSERT INTO notify.mailbox AS m (user_id, head, unread)
    SELECT u, count(*), count(*) FROM unnest(users) AS u GROUP BY u ORDER BY u COLLATE "C"
    ON CONFLICT (user_id) DO UPDATE SET head = m.head + excluded.head, unread = m.unread + excluded.unread;
    moment := clock_timestamp();

    IF array_remove(keys, NULL) <> '{}' THEN
        -- Nobody acknowledges while we decide what is still pending. Primary key (user_id, device).
        PERFORM 1 FROM notify.cursor AS c
        WHERE c.user_id IN (
            SELECT s.user_id FROM unnest(users, keys) AS r (u, k) JOIN notify.collapse_slot AS s ON s.user_id = r.u AND s.key = r.k
        )
        ORDER BY c.user_id, c.device FOR UPDATE;
        -- The first of this batch with a key replaces what is pending under it.
        SELECT array_agg(f.ord), array_agg(f.u), array_agg(f.seq) INTO hit_ords, hit_users, hit_seqs
        FROM (
            SELECT DISTINCT ON (r.u, r.k) r.u, r.ord, s.seq
            FROM unnest(users, keys) WITH ORDINALITY AS r (u, k, ord)
            JOIN notify.collapse_slot AS s ON s.user_id = r.u AND s.key = r.k
            ORDER BY r.u, r.k, r.ord
        ) AS f
        JOIN notify.entry AS e ON e.user_id = f.u AND e.seq = f.seq
        JOIN notify.notification AS n ON n.id = e.notification_id AND n.expires_at > moment
        WHERE f.seq > COALESCE((SELECT max(c.seq) FROM notify.cursor AS c WHERE c.user_id = f.u), 0)
          AND f.seq > (SELECT m.floor FROM notify.mailbox AS m WHERE m.user_id = f.u)
          AND NOT EXISTS (SELECT FROM notify.ending AS x WHERE x.user_id = f.u AND x.seq = f.seq);
        IF hit_ords IS NOT NULL THEN
            INSERT INTO notify.ending (user_id, seq, reason, at)
            SELECT u, s, 2, moment FROM unnest(hit_users, hit_seqs) AS h (u, s);
            -- One more seq for each retract, and one fewer unread where the replaced one was not read.
            UPDATE notify.mailbox AS m
            SET head = m.head + h.retracts,
                unread = m.unread - h.unread
            FROM (
                SELECT h.u, count(*) AS retracts, count(*) FILTER (WHERE NOT notify.is_read(h.u, h.s)) AS unread
                FROM unnest(hit_users, hit_seqs) AS h (u, s) GROUP BY h.u
            ) AS h
            WHERE m.user_id = h.u;
        END IF;
    END IF;

    -- The entries: for each recipient in order a retract of what it replaces, then the notification. Numbered back from the head.
    WITH event AS (
        SELECT r.ord, 1 AS step, r.u, 1 AS kind, r.id, NULL::bigint AS target
        FROM unnest(ids, users) WITH ORDINALITY AS r (id, u, ord)
        UNION ALL
        SELECT h.ord, 0, h.u, 2, e.notification_id, h.s
        FROM unnest(hit_ords, hit_users, hit_seqs) AS h (ord, u, s)
        JOIN notify.entry AS e ON e.user_id = h.u AND e.seq = h.s
    ), entered AS (
        INSERT INTO notify.entry (user_id, seq, kind, notification_id, target, at)
        SELECT v.u, m.head + 1 - row_number() OVER (PARTITION BY v.u ORDER BY v.ord DESC, v.step DESC), v.kind, v.id, v.target, moment
        FROM event AS v JOIN notify.mailbox AS m ON m.user_id = v.u
        RETURNING user_id, seq, kind, notification_id
    )
    SELECT array_agg(e.notification_id), array_agg(e.user_id), array_agg(e.seq) INTO new_ids, new_users, new_seqs
    FROM entered AS e WHERE e.kind = 1;

    IF array_remove(keys, NULL) <> '{}' THEN
        -- Within this batch a later one replaces an earlier one that nobody can have seen: it ends without a retract.
        INSERT INTO notify.ending (user_id, seq, reason, at)
        SELECT w.u, w.seq, 2, moment FROM (
            SELECT r.u, e.seq, row_number() OVER (PARTITION BY r.u, r.k ORDER BY r.ord DESC) AS place
            FROM unnest(ids, users, keys) WITH ORDINALITY AS r (id, u, k, ord)
            JOIN notify.entry AS e ON e.notification_id = r.id AND e.kind = 1 AND e.user_id = r.u
            WHERE r.k IS NOT NULL
        ) AS w WHERE w.place > 1;
        UPDATE notify.mailbox AS m SET unread = m.unread - d.n
        FROM (
            SELECT r.u, count(*) - count(DISTINCT r.k) AS n FROM unnest(users, keys) AS r (u, k)
            WHERE r.k IS NOT NULL GROUP BY r.u HAVING count(*) > count(DISTINCT r.k)
        ) AS d WHERE m.user_id = d.u;
        INSERT INTO notify.collapse_slot (user_id, key, seq)
        SELECT r.u, r.k, max(e.seq) FROM unnest(ids, users, keys) AS r (id, u, k)
        JOIN notify.entry AS e ON e.notification_id = r.id AND e.kind = 1 AND e.user_id = r.u
        WHERE r.k IS NOT NULL GROUP BY r.u, r.k ORDER BY r.u, r.k
        ON CONFLICT (user_id, key) DO UPDATE SET seq = excluded.seq;
    END IF;

    IF notify.truncate_pending(users, max_pending, moment) THEN
        PERFORM notify.wake(users);
    ELSE
        PERFORM notify.tell(new_users, new_ids, new_seqs, moment);
    END IF;
END $$;

-- Whether a notification's entry is read: under the mailbox's read mark, or marked by itself. Both by primary key.
CREATE FUNCTION notify.is_read(reader text, entry_seq bigint) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT entry_seq <= COALESCE((SELECT m.read_to FROM notify.mailbox AS m WHERE m.user_id = reader), 0)
        OR EXISTS (SELECT FROM notify.reading AS r WHERE r.user_id = reader AND NOT r.ranged AND r.to_seq = entry_seq)
$$;

-- Lets the oldest entries of over-full mailboxes go: their floor rises, and what was pending of them ends as truncated.
-- What fills a mailbox may be little that is pending and much that is over, such as an absent user's replaced ones, each with its
-- retract. Where at least three of sixteen of the rest, taken at random, are over, the few pending ones that would go are queued
-- again at the head instead (they end with reason 4), read as they were: while at most half is pending, one in five hundred is
-- mistaken for one too many; while a third is, one in twenty-five thousand.
-- The callers hold the mailboxes, and wake the users; answers whether anything went. Primary keys only; almost always one
-- comparison a mailbox.
CREATE FUNCTION notify.truncate_pending(users text[], max_pending bigint, moment timestamptz) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    full_users text[];   -- over-full mailboxes,
    floors bigint[];     -- how far their floors rise,
    bases bigint[];      -- and where what is not acknowledged begins
    let_go bigint;
BEGIN
    SELECT array_agg(f.user_id), array_agg(f.head - max_pending), array_agg(f.base) INTO full_users, floors, bases
    FROM (
        SELECT m.user_id, m.head, GREATEST(m.floor, (SELECT max(c.seq) FROM notify.cursor AS c WHERE c.user_id = m.user_id)) AS base
        FROM notify.mailbox AS m WHERE m.user_id = ANY (users) AND m.head - m.floor > max_pending
    ) AS f WHERE f.head - f.base > max_pending;
    IF full_users IS NULL THEN
        RETURN false;
    END IF;
    WITH going AS MATERIALIZED (
        SELECT f.u, f.floor, e.seq, e.notification_id, n.collapse_key
        FROM unnest(full_users, floors, bases) AS f (u, floor, base)
        JOIN notify.entry AS e ON e.user_id = f.u AND e.seq > f.base AND e.seq <= f.floor AND e.kind = 1
        JOIN notify.notification AS n ON n.id = e.notification_id AND n.expires_at > moment
        WHERE NOT EXISTS (SELECT FROM notify.ending AS x WHERE x.user_id = e.user_id AND x.seq = e.seq)
    ), sampled AS MATERIALIZED (
        SELECT g.u FROM (SELECT u, floor, count(*) AS n FROM going GROUP BY u, floor) AS g
        WHERE g.n <= max_pending / 2 AND 14 > (
            SELECT count(*) FROM (
                SELECT g.floor + 1 + floor(random() * max_pending)::bigint AS seq FROM generate_series(1, 16) OFFSET 0
            ) AS s
            CROSS JOIN LATERAL (
                SELECT FROM notify.entry AS e JOIN notify.notification AS n ON n.id = e.notification_id AND n.expires_at > moment
                WHERE e.user_id = g.u AND e.seq = s.seq AND e.kind = 1
                  AND NOT EXISTS (SELECT FROM notify.ending AS x WHERE x.user_id = e.user_id AND x.seq = e.seq) OFFSET 0
            ) AS e
        )
    ), ended AS (
        INSERT INTO notify.ending (user_id, seq, reason, at)
        SELECT g.u, g.seq, CASE WHEN g.u IN (SELECT s.u FROM sampled AS s) THEN 4 ELSE 3 END, moment FROM going AS g
        RETURNING reason
    ), moved AS (
        UPDATE notify.mailbox AS m SET floor = f.floor, unread = m.unread - f.unread, head = m.head + f.again
        FROM (
            SELECT f.u, f.floor,
                   count(g.seq) FILTER (WHERE s.u IS NOT NULL) AS again,
                   count(g.seq) FILTER (WHERE s.u IS NULL AND NOT notify.is_read(g.u, g.seq)) AS unread
            FROM unnest(full_users, floors) AS f (u, floor)
            LEFT JOIN going AS g ON g.u = f.u LEFT JOIN sampled AS s ON s.u = f.u GROUP BY f.u, f.floor
        ) AS f WHERE m.user_id = f.u
        RETURNING m.user_id, m.head
    ), queued AS MATERIALIZED (
        SELECT g.u, g.seq AS old_seq, g.notification_id, g.collapse_key,
               m.head + 1 - row_number() OVER (PARTITION BY g.u ORDER BY g.seq DESC) AS new_seq
        FROM going AS g JOIN sampled AS s ON s.u = g.u JOIN moved AS m ON m.user_id = g.u
    ), entered AS (
        INSERT INTO notify.entry (user_id, seq, kind, notification_id, at)
        SELECT q.u, q.new_seq, 1, q.notification_id, moment FROM queued AS q
    ), marked AS (
        INSERT INTO notify.reading (user_id, ranged, to_seq, after_seq, at)
        SELECT q.u, false, q.new_seq, q.new_seq - 1, notify.read_at(q.u, q.old_seq) FROM queued AS q WHERE notify.is_read(q.u, q.old_seq)
    ), slotted AS (
        UPDATE notify.collapse_slot AS s SET seq = q.new_seq
        FROM queued AS q WHERE s.user_id = q.u AND s.key = q.collapse_key AND s.seq = q.old_seq
    )
    SELECT count(*) INTO let_go FROM ended AS e WHERE e.reason = 3;
    IF let_go > 0 THEN
        -- For the nodes' metrics. The moment keeps PostgreSQL from taking two of the same number for one.
        PERFORM pg_notify('notify_full', let_go || ' ' || clock_timestamp());
    END IF;
    RETURN true;
END $$;

-- Tells every node that these heads moved: lines of "user TAB head", as few NOTIFYs as fit (a payload is under 8,000 bytes;
-- a line has at most 1,041: https://www.postgresql.org/docs/current/sql-notify.html). User ids hold no control characters.
CREATE FUNCTION notify.wake(users text[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('notify_wake', string_agg(line, E'\n'))
    FROM (
        SELECT line, sum(octet_length(line) + 1) OVER (ORDER BY user_id) / 6900 AS part
        FROM (
            SELECT m.user_id, m.user_id || E'\t' || m.head AS line FROM notify.mailbox AS m WHERE m.user_id = ANY (users)
        ) AS heads
    ) AS parts
    GROUP BY part;
END $$;

-- The same of new entries, and for small notifications what they say as well, so that nobody has to fetch them:
-- "user TAB seq TAB queued TAB id TAB created TAB type TAB producer TAB context TAB data", times in microseconds since
-- 1970. Of whatever does not fit into such a line (long, or with a line end or tab in it), is over within a second or may be
-- replaced, only the seq; of all of them beyond a number that every node should have to read, and where text is not UTF-8.
-- A user's lines come in the order of the seqs. Primary key.
CREATE FUNCTION notify.tell(users text[], ids uuid[], seqs bigint[], moment timestamptz) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    queued bigint := extract(epoch FROM moment) * 1000000;
BEGIN
    IF cardinality(ids) > 1000 OR getdatabaseencoding() <> 'UTF8' THEN
        PERFORM notify.wake(users);
        RETURN;
    END IF;
    PERFORM pg_notify('notify_wake', string_agg(line, E'\n' ORDER BY u, s))
    FROM (
        SELECT u, s, line, sum(octet_length(line) + 1) OVER (ORDER BY u, s) / 6900 AS part
        FROM (
            SELECT e.u, e.s, CASE WHEN octet_length(c.line) <= 1041 THEN c.line ELSE e.u || E'\t' || e.s END AS line
            FROM unnest(users, ids, seqs) AS e (u, id, s) JOIN notify.notification AS n ON n.id = e.id
            CROSS JOIN LATERAL (
                SELECT CASE WHEN n.codec = 0 AND n.collapse_key IS NULL AND n.expires_at > moment + interval '1 second'
                    AND octet_length(n.data) <= 900 AND position('\x09'::bytea IN n.data) = 0 AND position('\x0a'::bytea IN n.data) = 0
                    AND strpos(concat(n.type, n.producer, n.context), E'\t') = 0
                    AND strpos(concat(n.type, n.producer, n.context), E'\n') = 0
                THEN concat_ws(E'\t', e.u, e.s, queued, n.id, (extract(epoch FROM n.created_at) * 1000000)::bigint,
                               n.type, n.producer, COALESCE(n.context, ''), convert_from(n.data, 'UTF8'))
                END AS line OFFSET 0
            ) AS c
        ) AS told
    ) AS parts
    GROUP BY part;
END $$;

-- Stores a batch of notifications in one commit; answers with the moment of it, nothing more, so that a client that
-- stopped reading holds no locks. Per notification: ids to patiences, ttls and patiences in seconds; per recipient: the
-- position of its notification, and the user. What is due later waits in the outbox. Per idempotency key: the key, the digest of
-- its request, and which of the notifications are the request's. A key that is being worked on (NT409) or was used (NT422)
-- fails the batch, with the position of the key as the message: nothing of it was stored, not even the mailboxes touched.
-- The batch's own lock lets whoever lost the connection find out for certain (notify.settle).
CREATE FUNCTION notify.deposit(
    batch uuid, ids uuid[], producers text[], types text[], datas bytea[], codecs smallint[], counts integer[],
    ttls integer[], dues timestamptz[], keys text[], contexts text[], patiences integer[], items integer[], users text[],
    max_pending bigint,
    claim_keys text[], claim_digests bytea[], claim_firsts integer[], claim_sizes integer[]
) RETURNS timestamptz
LANGUAGE plpgsql SET lock_timeout = '250ms' AS $$
DECLARE
    moment timestamptz := clock_timestamp();
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(batch::text, 0));
    IF EXISTS (SELECT FROM notify.abandoned AS a WHERE a.batch = deposit.batch) THEN
        RAISE EXCEPTION 'this batch was given up' USING ERRCODE = 'NT001';
    END IF;
    FOR claim IN 1 .. cardinality(claim_keys) LOOP
        IF NOT pg_try_advisory_xact_lock(hashtextextended(producers[claim_firsts[claim]] || E'\n' || claim_keys[claim], 1)) THEN
            RAISE EXCEPTION '%', claim USING ERRCODE = 'NT409';
        END IF;
        INSERT INTO notify.idempotency AS k (producer, key, digest, ids, recipients, created_at)
        SELECT producers[claim_firsts[claim]], claim_keys[claim], claim_digests[claim], array_agg(i.id ORDER BY i.ord), sum(i.n), moment
        FROM unnest(ids, counts) WITH ORDINALITY AS i (id, n, ord)
        WHERE i.ord >= claim_firsts[claim] AND i.ord < claim_firsts[claim] + claim_sizes[claim]
        ON CONFLICT (producer, key) DO UPDATE
        SET digest = excluded.digest, ids = excluded.ids, recipients = excluded.recipients, created_at = excluded.created_at
        WHERE k.created_at < moment - interval '24 hours';
        IF NOT FOUND THEN
            RAISE EXCEPTION '%', claim USING ERRCODE = 'NT422';
        END IF;
    END LOOP;
    INSERT INTO notify.notification (id, producer, type, data, codec, recipients, created_at, expires_at, collapse_key, context)
    SELECT i.id, i.producer, i.type, i.data, i.codec, i.recipients, moment,
           GREATEST(i.due, moment) + make_interval(secs => i.ttl), i.key, i.context
    FROM unnest(ids, producers, types, datas, codecs, counts, ttls, dues, keys, contexts)
        AS i (id, producer, type, data, codec, recipients, ttl, due, key, context);
    IF array_remove(patiences, NULL) <> '{}' THEN
        INSERT INTO notify.deadline (id, due_at)
        SELECT i.id, GREATEST(i.due, moment) + make_interval(secs => i.patience)
        FROM unnest(ids, dues, patiences) AS i (id, due, patience) WHERE i.patience IS NOT NULL;
    END IF;
    IF array_remove(dues, NULL) = '{}' THEN
        PERFORM notify.number(
            array_agg(ids[r.item] ORDER BY r.ord), array_agg(r.u ORDER BY r.ord), array_agg(keys[r.item] ORDER BY r.ord), max_pending)
        FROM unnest(items, users) WITH ORDINALITY AS r (item, u, ord) HAVING count(*) > 0;
    ELSE
        INSERT INTO notify.outbox (id, due_at, users)
        SELECT ids[r.item], dues[r.item], array_agg(r.u ORDER BY r.ord)
        FROM unnest(items, users) WITH ORDINALITY AS r (item, u, ord) WHERE dues[r.item] > moment GROUP BY r.item;
        PERFORM notify.number(
            array_agg(ids[r.item] ORDER BY r.ord), array_agg(r.u ORDER BY r.ord), array_agg(keys[r.item] ORDER BY r.ord), max_pending)
        FROM unnest(items, users) WITH ORDINALITY AS r (item, u, ord)
        WHERE dues[r.item] IS NULL OR dues[r.item] <= moment HAVING count(*) > 0;
    END IF;
    RETURN moment;
END $$;

-- Says for certain whether a batch whose connection broke was committed; if it was not, it never will be.
-- Waits for a deposit that is still running; one that arrives later finds the batch abandoned.
CREATE FUNCTION notify.settle(batch uuid, first_id uuid) RETURNS timestamptz
LANGUAGE plpgsql SET lock_timeout = '10s' AS $$
DECLARE
    moment timestamptz;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(batch::text, 0));
    SELECT n.created_at INTO moment FROM notify.notification AS n WHERE n.id = first_id;
    IF moment IS NULL THEN
        INSERT INTO notify.abandoned (batch) VALUES (settle.batch) ON CONFLICT DO NOTHING;
    END IF;
    RETURN moment;
END $$;

-- Creates mailboxes and cursors that do not exist yet. A device never seen before starts after whatever any of the user's
-- devices has acknowledged. Beyond max_devices the longest unseen go. Mailboxes before cursors, both in sorted order.
CREATE FUNCTION notify.enter(users text[], devices text[], max_devices integer) RETURNS bigint
LANGUAGE plpgsql SET lock_timeout = '250ms' AS $$
DECLARE
    entered bigint;
BEGIN
    INSERT INTO notify.mailbox (user_id) SELECT DISTINCT u FROM unnest(users) AS u ORDER BY 1 ON CONFLICT DO NOTHING;
    -- A device is not new while somebody decides what is pending: that decision holds the mailbox.
    PERFORM 1 FROM notify.mailbox AS m WHERE m.user_id = ANY (users) ORDER BY m.user_id FOR UPDATE;
    INSERT INTO notify.cursor AS c (user_id, device, seq, seen_at)
    SELECT DISTINCT r.u, r.d, COALESCE((SELECT max(a.seq) FROM notify.cursor AS a WHERE a.user_id = r.u), 0), clock_timestamp()
    FROM unnest(users, devices) AS r (u, d) ORDER BY 1, 2
    ON CONFLICT (user_id, device) DO UPDATE SET
        seq = CASE WHEN c.removed THEN GREATEST(c.seq, excluded.seq) ELSE c.seq END, removed = false, seen_at = excluded.seen_at;
    GET DIAGNOSTICS entered = ROW_COUNT;
    UPDATE notify.cursor AS c SET removed = true
    FROM (
        SELECT a.user_id, a.device, row_number() OVER (PARTITION BY a.user_id ORDER BY a.seen_at DESC, a.device) AS place
        FROM notify.cursor AS a WHERE a.user_id = ANY (users) AND NOT a.removed
    ) AS old WHERE c.user_id = old.user_id AND c.device = old.device AND old.place > max_devices;
    RETURN entered;
END $$;
