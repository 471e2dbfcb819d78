-- A flight of sends made cheaper: fewer statements, each with less to start. What the functions promise stays as it was.
-- Recipients may come in any order, and cost least in that of their mailboxes: users byte by byte, what is for one of them as it was
-- sent. An array in which nothing but NULL would stand may be NULL itself.

-- See 0010_ordinary. Times by way of doubles, exact to the microsecond until 2106: extract() works in numerics, at ten times
-- the cost. No table: it is inlined where it is called.
CREATE OR REPLACE FUNCTION notify.tail(
    id uuid, producer text, type text, context text, codec smallint, data bytea, created_at timestamptz, expires_at timestamptz,
    moment timestamptz
) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN codec = 0 AND expires_at > moment + interval '1 second'
        AND octet_length(data) <= 900 AND position('\x09'::bytea IN data) = 0 AND position('\x0a'::bytea IN data) = 0
        AND strpos(concat(type, producer, context), E'\t') = 0 AND strpos(concat(type, producer, context), E'\n') = 0
    THEN concat_ws(E'\t', (date_part('epoch', moment) * 1000000)::bigint, id, (date_part('epoch', created_at) * 1000000)::bigint,
                   type, producer, COALESCE(context, ''), convert_from(data, 'UTF8'))
    END
$$;

-- See 0010_ordinary.
CREATE OR REPLACE FUNCTION notify.deposit(
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
    -- Whether it was given up. Primary key.
    PERFORM FROM notify.abandoned AS a WHERE a.batch = deposit.batch;
    IF FOUND THEN
        RAISE EXCEPTION 'this batch was given up' USING ERRCODE = 'NT001';
    END IF;
    FOR claim IN 1 .. COALESCE(cardinality(claim_keys), 0) LOOP
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
    IF array_remove(keys, NULL) <> '{}' OR array_remove(dues, NULL) <> '{}' THEN
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
    ELSIF cardinality(ids) = 1 AND cardinality(users) = 1 THEN
        PERFORM notify.deposit_one(
            batch, ids[1], producers[1], types[1], datas[1], codecs[1], counts[1], ttls[1], contexts[1], users[1], max_pending, moment);
    ELSE
        PERFORM notify.deposit_ordinary(
            batch, ids, producers, types, datas, codecs, counts, ttls, contexts, items, users, max_pending, moment);
    END IF;
    IF array_remove(patiences, NULL) <> '{}' THEN
        INSERT INTO notify.deadline (id, due_at)
        SELECT i.id, GREATEST(i.due, moment) + make_interval(secs => i.patience)
        FROM unnest(ids, dues, patiences) AS i (id, due, patience) WHERE i.patience IS NOT NULL;
    END IF;
    RETURN moment;
END $$;

-- See 0010_ordinary: stores notifications that replace nothing and are due now, appends an entry a recipient and wakes the
-- recipients. Where every mailbox gets one entry and they come in order, as they mostly do, the heads are the seqs as they are.
-- Primary keys.
CREATE OR REPLACE FUNCTION notify.deposit_ordinary(
    batch uuid, ids uuid[], producers text[], types text[], datas bytea[], codecs smallint[], counts integer[],
    ttls integer[], contexts text[], items integer[], users text[], max_pending bigint, moment timestamptz
) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    boxes text[];        -- the mailboxes' users, in order,
    heads bigint[];      -- and their heads
    longest bigint;      -- the most that any of them holds
    to_users text[];     -- the recipients in the order of their mailboxes,
    to_items integer[];  -- what each gets,
    seqs bigint[];       -- and under which seq
    tails text[];        -- what the lines of each notification end with
    lines text;
    numbered timestamptz;
BEGIN
    -- Gives each mailbox its new head and holds it until the commit; creates those that do not exist, born of this batch.
    WITH box AS (
        INSERT INTO notify.mailbox AS m (user_id, head, unread, born)
        SELECT r.u, count(*), count(*), batch FROM (SELECT unnest(users) COLLATE "C" AS u) AS r GROUP BY r.u ORDER BY r.u
        ON CONFLICT (user_id) DO UPDATE SET head = m.head + excluded.head, unread = m.unread + excluded.unread
        RETURNING m.user_id, m.head, m.head - m.floor AS kept
    )
    SELECT array_agg(b.user_id), array_agg(b.head), max(b.kept) INTO boxes, heads, longest FROM box AS b;
    numbered := clock_timestamp();
    IF boxes = users THEN
        to_users := users;
        to_items := items;
        seqs := heads;
    ELSE
        -- Several for one user are numbered in the order of the arrays, back from the head that the mailbox got.
        SELECT array_agg(r.u), array_agg(r.item), array_agg(r.seq) INTO to_users, to_items, seqs
        FROM (
            SELECT r.u, r.item,
                   heads[(dense_rank() OVER (ORDER BY r.u))::integer]
                   - count(*) OVER (PARTITION BY r.u) + row_number() OVER (PARTITION BY r.u ORDER BY r.ord) AS seq
            FROM (SELECT u COLLATE "C" AS u, item, ord FROM unnest(users, items) WITH ORDINALITY AS r (u, item, ord)) AS r
            ORDER BY r.u, r.ord OFFSET 0
        ) AS r;
    END IF;
    WITH stored AS (
        INSERT INTO notify.notification AS n (id, producer, type, data, codec, recipients, created_at, expires_at, context)
        SELECT i.id, i.producer, i.type, i.data, i.codec, i.recipients, moment, moment + make_interval(secs => i.ttl), i.context
        FROM (
            SELECT unnest(ids) AS id, unnest(producers) AS producer, unnest(types) AS type, unnest(datas) AS data,
                   unnest(codecs) AS codec, unnest(counts) AS recipients, unnest(ttls) AS ttl, unnest(contexts) AS context
        ) AS i
        RETURNING notify.tail(n.id, n.producer, n.type, n.context, n.codec, n.data, moment, n.expires_at, numbered) AS tail
    )
    SELECT array_agg(s.tail) INTO tails FROM stored AS s;
    INSERT INTO notify.entry (user_id, seq, kind, notification_id, at)
    SELECT r.u, r.seq, 1, ids[r.item], numbered
    FROM (SELECT unnest(to_users) AS u, unnest(seqs) AS seq, unnest(to_items) AS item) AS r;

    IF longest > max_pending AND notify.truncate_pending(users, max_pending, numbered)
       OR cardinality(users) > 1000 OR getdatabaseencoding() <> 'UTF8' THEN
        PERFORM notify.wake(users);
        RETURN;
    END IF;
    -- As notify.tell writes them, in the order at hand. Mostly one NOTIFY holds them; else the parts in order as well.
    SELECT string_agg(
        CASE WHEN octet_length(h.line) + octet_length(tails[h.item]) <= 1040 THEN h.line || E'\t' || tails[h.item] ELSE h.line END, E'\n')
    INTO lines
    FROM (
        SELECT r.u || E'\t' || r.seq AS line, r.item
        FROM (SELECT unnest(to_users) AS u, unnest(seqs) AS seq, unnest(to_items) AS item) AS r OFFSET 0
    ) AS h;
    IF octet_length(lines) <= 7900 THEN
        PERFORM pg_notify('notify_wake', lines);
    ELSE
        PERFORM pg_notify('notify_wake', t.lines)
        FROM (
            SELECT string_agg(p.line, E'\n' ORDER BY p.ord) AS lines
            FROM (
                SELECT l.line, l.ord, sum(octet_length(l.line) + 1) OVER (ORDER BY l.ord ROWS UNBOUNDED PRECEDING) / 6900 AS part
                FROM unnest(string_to_array(lines, E'\n')) WITH ORDINALITY AS l (line, ord)
            ) AS p
            GROUP BY p.part ORDER BY p.part OFFSET 0
        ) AS t;
    END IF;
END $$;
