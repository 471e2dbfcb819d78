-- RETURNING gives rows in the order in which they were written, in every PostgreSQL there is; but no page of its documentation
-- promises that, and to tell one user what was for another is worse than anything it saves. So nothing here depends on it any more.

-- See 0011_flights. What another order would cost is a fetch.
CREATE OR REPLACE FUNCTION notify.deposit_ordinary(
    batch uuid, ids uuid[], producers text[], types text[], datas bytea[], codecs smallint[], counts integer[],
    ttls integer[], contexts text[], items integer[], users text[], max_pending bigint, moment timestamptz
) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    boxes text[];        -- the mailboxes' users,
    heads bigint[];      -- and their heads
    longest bigint;      -- the most that any of them holds
    to_users text[];     -- the recipients in the order of their mailboxes,
    to_items integer[];  -- what each gets,
    seqs bigint[];       -- and under which seq
    tails text[];        -- what the lines of each notification end with,
    told uuid[];         -- and whose these are
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
        SELECT array_agg(b.head ORDER BY b.u) INTO heads FROM (SELECT unnest(boxes) COLLATE "C" AS u, unnest(heads) AS head) AS b;
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
        RETURNING n.id, notify.tail(n.id, n.producer, n.type, n.context, n.codec, n.data, moment, n.expires_at, numbered) AS tail
    )
    SELECT array_agg(s.tail), array_agg(s.id) INTO tails, told FROM stored AS s;
    IF told <> ids THEN
        tails := NULL;
    END IF;
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
