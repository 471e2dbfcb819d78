-- The ordinary send made cheap: nothing to collapse, nothing due later. What the functions promise stays as it was.

-- What a small notification says, for whoever is woken by it: everything of a line after the user and the seq, see notify.tell.
-- NULL where it does not fit into a line or may be over before the line is read. No table: it is inlined where it is called.
CREATE FUNCTION notify.tail(
    id uuid, producer text, type text, context text, codec smallint, data bytea, created_at timestamptz, expires_at timestamptz,
    moment timestamptz
) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN codec = 0 AND expires_at > moment + interval '1 second'
        AND octet_length(data) <= 900 AND position('\x09'::bytea IN data) = 0 AND position('\x0a'::bytea IN data) = 0
        AND strpos(concat(type, producer, context), E'\t') = 0 AND strpos(concat(type, producer, context), E'\n') = 0
    THEN concat_ws(E'\t', (extract(epoch FROM moment) * 1000000)::bigint, id, (extract(epoch FROM created_at) * 1000000)::bigint,
                   type, producer, COALESCE(context, ''), convert_from(data, 'UTF8'))
    END
$$;

-- See 0001_mailboxes: the same lines, their ends now written in one place.
CREATE OR REPLACE FUNCTION notify.tell(users text[], ids uuid[], seqs bigint[], moment timestamptz) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF cardinality(ids) > 1000 OR getdatabaseencoding() <> 'UTF8' THEN
        PERFORM notify.wake(users);
        RETURN;
    END IF;
    PERFORM pg_notify('notify_wake', string_agg(line, E'\n' ORDER BY u, s))
    FROM (
        SELECT u, s, line, sum(octet_length(line) + 1) OVER (ORDER BY u, s) / 6900 AS part
        FROM (
            SELECT e.u, e.s, e.u || E'\t' || e.s || CASE WHEN octet_length(e.u || e.s) + octet_length(c.tail) < 1040
                                                    THEN E'\t' || c.tail ELSE '' END AS line
            FROM unnest(users, ids, seqs) AS e (u, id, s) JOIN notify.notification AS n ON n.id = e.id
            CROSS JOIN LATERAL (
                SELECT CASE WHEN n.collapse_key IS NULL
                    THEN notify.tail(n.id, n.producer, n.type, n.context, n.codec, n.data, n.created_at, n.expires_at, moment)
                END AS tail OFFSET 0
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
-- Three ways, by what is in the batch: one notification for one user, in statements without a plan worth speaking of (starting a
-- statement costs more than a row); any number of ordinary ones, where no statement looks up what the one before it knew; and
-- whatever may replace something or is due later, through notify.number and the outbox. Mailboxes are taken in sorted order in each.
CREATE OR REPLACE FUNCTION notify.deposit(
    batch uuid, ids uuid[], producers text[], types text[], datas bytea[], codecs smallint[], counts integer[],
    ttls integer[], dues timestamptz[], keys text[], contexts text[], patiences integer[], items integer[], users text[],
    max_pending bigint,
    claim_keys text[], claim_digests bytea[], claim_firsts integer[], claim_sizes integer[]
) RETURNS timestamptz
LANGUAGE plpgsql SET lock_timeout = '250ms' AS $$
DECLARE
    moment timestamptz := clock_timestamp();
    given_up boolean;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(batch::text, 0));
    SELECT EXISTS (SELECT FROM notify.abandoned AS a WHERE a.batch = deposit.batch) INTO given_up;
    IF given_up THEN
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
    IF array_remove(keys, NULL) = '{}' AND array_remove(dues, NULL) = '{}' THEN
        IF cardinality(ids) = 1 AND cardinality(users) = 1 THEN
            PERFORM notify.deposit_one(
                batch, ids[1], producers[1], types[1], datas[1], codecs[1], counts[1], ttls[1], contexts[1], users[1], max_pending, moment);
        ELSE
            PERFORM notify.deposit_ordinary(
                batch, ids, producers, types, datas, codecs, counts, ttls, contexts, items, users, max_pending, moment);
        END IF;
    ELSE
        INSERT INTO notify.notification (id, producer, type, data, codec, recipients, created_at, expires_at, collapse_key, context)
        SELECT i.id, i.producer, i.type, i.data, i.codec, i.recipients, moment,
               GREATEST(i.due, moment) + make_interval(secs => i.ttl), i.key, i.context
        FROM unnest(ids, producers, types, datas, codecs, counts, ttls, dues, keys, contexts)
            AS i (id, producer, type, data, codec, recipients, ttl, due, key, context);
        INSERT INTO notify.outbox (id, due_at, users)
        SELECT ids[r.item], dues[r.item], array_agg(r.u ORDER BY r.ord)
        FROM unnest(items, users) WITH ORDINALITY AS r (item, u, ord) WHERE dues[r.item] > moment GROUP BY r.item;
        PERFORM notify.number(
            array_agg(ids[r.item] ORDER BY r.ord), array_agg(r.u ORDER BY r.ord), array_agg(keys[r.item] ORDER BY r.ord), max_pending)
        FROM unnest(items, users) WITH ORDINALITY AS r (item, u, ord)
        WHERE dues[r.item] IS NULL OR dues[r.item] <= moment HAVING count(*) > 0;
    END IF;
    IF array_remove(patiences, NULL) <> '{}' THEN
        INSERT INTO notify.deadline (id, due_at)
        SELECT i.id, GREATEST(i.due, moment) + make_interval(secs => i.patience)
        FROM unnest(ids, dues, patiences) AS i (id, due, patience) WHERE i.patience IS NOT NULL;
    END IF;
    RETURN moment;
END $$;

-- Stores one notification for one user, as notify.deposit_ordinary does many. Primary keys.
CREATE FUNCTION notify.deposit_one(
    batch uuid, id uuid, producer text, type text, data bytea, codec smallint, recipients integer, ttl integer, context text,
    recipient text, max_pending bigint, moment timestamptz
) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    expires_at timestamptz := moment + make_interval(secs => ttl);
    numbered timestamptz;
    seq bigint;
    kept bigint;
    line text;
    tail text;
BEGIN
    INSERT INTO notify.notification (id, producer, type, data, codec, recipients, created_at, expires_at, context)
    VALUES (id, producer, type, data, codec, recipients, moment, expires_at, context);
    INSERT INTO notify.mailbox AS m (user_id, head, unread, born) VALUES (recipient, 1, 1, batch)
    ON CONFLICT ON CONSTRAINT mailbox_pkey DO UPDATE SET head = m.head + 1, unread = m.unread + 1
    RETURNING m.head, m.head - m.floor INTO seq, kept;
    numbered := clock_timestamp();
    INSERT INTO notify.entry (user_id, seq, kind, notification_id, at) VALUES (recipient, seq, 1, id, numbered);
    IF kept > max_pending AND notify.truncate_pending(ARRAY[recipient], max_pending, numbered) OR getdatabaseencoding() <> 'UTF8' THEN
        PERFORM notify.wake(ARRAY[recipient]);
    ELSE
        line := recipient || E'\t' || seq;
        tail := notify.tail(id, producer, type, context, codec, data, moment, expires_at, numbered);
        IF octet_length(line) + octet_length(tail) <= 1040 THEN
            line := line || E'\t' || tail;
        END IF;
        PERFORM pg_notify('notify_wake', line);
    END IF;
END $$;

-- Stores notifications that replace nothing and are due now, appends an entry a recipient and wakes the recipients: what
-- notify.number does, of what is at hand. A mailbox that is new is born of this batch: that tells it from any before it.
-- Several for one user are numbered in the order of the arrays, back from the head that the mailbox got. Primary keys.
CREATE FUNCTION notify.deposit_ordinary(
    batch uuid, ids uuid[], producers text[], types text[], datas bytea[], codecs smallint[], counts integer[],
    ttls integer[], contexts text[], items integer[], users text[], max_pending bigint, moment timestamptz
) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    heads bigint[];      -- of the mailboxes, in the order of their users
    longest bigint;      -- the most that any of them holds
    to_users text[];     -- the recipients in the order of their mailboxes,
    to_items integer[];  -- what each gets,
    seqs bigint[];       -- and under which seq
    tails text[];        -- what the lines of each notification end with
    numbered timestamptz;
BEGIN
    -- Gives each mailbox its new head and holds it until the commit; creates those that do not exist.
    WITH recipient AS MATERIALIZED (
        SELECT r.u COLLATE "C" AS u, r.item FROM unnest(users, items) WITH ORDINALITY AS r (u, item, ord) ORDER BY 1, r.ord
    ), box AS (
        INSERT INTO notify.mailbox AS m (user_id, head, unread, born)
        SELECT r.u, count(*), count(*), batch FROM recipient AS r GROUP BY r.u ORDER BY r.u
        ON CONFLICT (user_id) DO UPDATE SET head = m.head + excluded.head, unread = m.unread + excluded.unread
        RETURNING m.user_id, m.head, m.head - m.floor AS kept
    )
    SELECT b.heads, b.longest, r.users, r.items INTO heads, longest, to_users, to_items
    FROM (SELECT array_agg(b.head ORDER BY b.user_id) AS heads, max(b.kept) AS longest FROM box AS b) AS b
    CROSS JOIN (SELECT array_agg(r.u) AS users, array_agg(r.item) AS items FROM recipient AS r) AS r;
    numbered := clock_timestamp();
    IF cardinality(heads) = cardinality(to_users) THEN
        seqs := heads;
    ELSE
        seqs := ARRAY(
            SELECT heads[g.place] - g.n + generate_series(1, g.n)
            FROM (
                SELECT count(*) AS n, row_number() OVER (ORDER BY u COLLATE "C") AS place
                FROM unnest(to_users) AS u GROUP BY u COLLATE "C" ORDER BY place
            ) AS g
        );
    END IF;

    WITH item AS MATERIALIZED (
        SELECT i.*, moment + make_interval(secs => i.ttl) AS expires_at
        FROM unnest(ids, producers, types, datas, codecs, counts, ttls, contexts)
            AS i (id, producer, type, data, codec, recipients, ttl, context)
    ), stored AS (
        INSERT INTO notify.notification (id, producer, type, data, codec, recipients, created_at, expires_at, context)
        SELECT i.id, i.producer, i.type, i.data, i.codec, i.recipients, moment, i.expires_at, i.context FROM item AS i
    ), entered AS (
        INSERT INTO notify.entry (user_id, seq, kind, notification_id, at)
        SELECT r.u, r.seq, 1, ids[r.item], numbered FROM unnest(to_users, seqs, to_items) AS r (u, seq, item)
    )
    SELECT array_agg(notify.tail(i.id, i.producer, i.type, i.context, i.codec, i.data, moment, i.expires_at, numbered)) INTO tails
    FROM item AS i;

    IF longest > max_pending AND notify.truncate_pending(users, max_pending, numbered)
       OR cardinality(users) > 1000 OR getdatabaseencoding() <> 'UTF8' THEN
        PERFORM notify.wake(users);
    ELSE
        -- As notify.tell writes them, in the order at hand, the parts as well.
        PERFORM pg_notify('notify_wake', t.lines)
        FROM (
            SELECT string_agg(p.line, E'\n' ORDER BY p.ord) AS lines
            FROM (
                SELECT l.line, l.ord, sum(octet_length(l.line) + 1) OVER (ORDER BY l.ord ROWS UNBOUNDED PRECEDING) / 6900 AS part
                FROM (
                    SELECT CASE WHEN octet_length(h.line) + octet_length(tails[h.item]) <= 1040
                           THEN h.line || E'\t' || tails[h.item] ELSE h.line END AS line, h.ord
                    FROM (
                        SELECT r.u || E'\t' || r.seq AS line, r.item, r.ord
                        FROM unnest(to_users, seqs, to_items) WITH ORDINALITY AS r (u, seq, item, ord) OFFSET 0
                    ) AS h
                ) AS l
            ) AS p
            GROUP BY p.part ORDER BY p.part OFFSET 0
        ) AS t;
    END IF;
END $$;

-- The unread of a user at this moment: the count that is kept, less what expired and was not swept yet, if anything did at all.
-- Primary key, notification_unswept.
CREATE OR REPLACE FUNCTION notify.unread(reader text) RETURNS bigint
LANGUAGE sql VOLATILE AS $$
    SELECT (
        SELECT m.unread - CASE
            WHEN (SELECT EXISTS (SELECT FROM notify.notification AS n WHERE NOT n.swept AND n.expires_at <= (SELECT clock_timestamp())))
            THEN (SELECT w.counted FROM notify.count_unswept(reader, clock_timestamp()) AS w) ELSE 0 END
        FROM notify.mailbox AS m WHERE m.user_id = reader
    )
$$;
