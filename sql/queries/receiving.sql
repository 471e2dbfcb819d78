-- Statements that are handed long arrays look up each element by its whole key: a plan that was made while a table was empty would
-- rather go through all of it for each. Hence OFFSET 0, which keeps the planner from rearranging a look-up; and a notification is
-- looked up by a range of one id, in order, which only its primary key gives: notification_age, with the id in second place, would
-- be read whole.

-- name: look
-- Where mailboxes and the cursors of devices stand. An absent mailbox or cursor is NULL. Primary keys; whether anything expired
-- that was not swept yet, which is seldom, is asked once for all of them: notification_unswept.
SELECT m.head, m.floor, m.born, c.seq, c.removed,
       CASE WHEN (
           SELECT EXISTS (SELECT FROM notify.notification AS n WHERE NOT n.swept AND n.expires_at <= (SELECT clock_timestamp()))
       ) THEN notify.unread(m.user_id) ELSE m.unread END AS unread
FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS r (user_id, device, ord)
LEFT JOIN LATERAL (
    SELECT x.user_id, x.head, x.floor, x.born, x.unread FROM notify.mailbox AS x WHERE x.user_id = r.user_id OFFSET 0
) AS m ON true
LEFT JOIN LATERAL (
    SELECT x.seq, x.removed FROM notify.cursor AS x WHERE x.user_id = r.user_id AND x.device = r.device OFFSET 0
) AS c ON true
ORDER BY r.ord

-- name: enter
-- Creates what `look` did not find: the mailboxes, and the cursors of devices never seen (or removed), which start after
-- whatever any device of the user has acknowledged. Primary keys, in sorted order; answers with a count.
SELECT notify.enter($1, $2, $3)

-- name: fetch_pages
-- The next page of each mailbox asked for: some entries after a seq, as many as fit in some bytes of data but at least one,
-- together with the head and the floor of the same moment. `live` is false for what is over: it is not sent, only passed.
-- Primary keys of mailbox, entry, ending and notification.
SELECT r.ord, m.head, m.floor, p.seq, p.kind, p.live, p.notification_id, p.type, p.producer, p.context, p.codec, p.created_at, p.at,
       CASE WHEN p.live THEN p.data END AS data, p.target, p.seqs, p.unread
FROM unnest($1::text[], $2::bigint[], $3::integer[], $4::bigint[]) WITH ORDINALITY AS r (user_id, after, room, size, ord)
CROSS JOIN LATERAL (SELECT x.head, x.floor FROM notify.mailbox AS x WHERE x.user_id = r.user_id OFFSET 0) AS m
LEFT JOIN LATERAL (
    SELECT e.*, n.type, n.producer, n.context, n.codec, n.created_at, n.data,
           e.kind <> 1 OR (x.seq IS NULL AND n.expires_at > clock_timestamp()) AS live,
           sum(COALESCE(octet_length(n.data), 0)) OVER (ORDER BY e.seq) - COALESCE(octet_length(n.data), 0) AS bytes_before
    FROM (
        SELECT e.seq, e.kind, e.notification_id, e.target, e.seqs, e.unread, e.at FROM notify.entry AS e
        WHERE e.user_id = r.user_id AND e.seq > GREATEST(r.after, m.floor) ORDER BY e.seq LIMIT r.room
    ) AS e
    LEFT JOIN LATERAL (
        SELECT x.type, x.producer, x.context, x.codec, x.created_at, x.expires_at, x.data FROM notify.notification AS x
        WHERE e.kind = 1 AND x.id BETWEEN e.notification_id AND e.notification_id ORDER BY x.id LIMIT 1
    ) AS n ON true
    LEFT JOIN LATERAL (
        SELECT x.seq FROM notify.ending AS x WHERE e.kind = 1 AND x.user_id = r.user_id AND x.seq = e.seq OFFSET 0
    ) AS x ON true
) AS p ON p.bytes_before < r.size
ORDER BY r.ord, p.seq

-- name: move_cursors
-- Acknowledges: moves cursors forward, never back and never past the head, and writes down what each move covered. In a database
-- that is another one than the acks are for (its epoch, see read_epoch, is not $4), it moves nothing and answers with NULL.
-- A cursor that somebody holds (a cancel deciding what is pending) is passed over, so that it holds up nobody else's.
-- Primary keys; answers with the places of those, which are to be tried again. Who was passed over is only asked where not all moved.
-- A device may be named once. They are moved by ON CONFLICT, though all are there: a join with the cursors could go through all.
WITH here AS (
    SELECT $4::text = md5(concat_ws('/', (SELECT c.system_identifier FROM pg_control_system() AS c), (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database()),
        CASE WHEN NOT pg_is_in_recovery() THEN left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) END,
        (SELECT s.value FROM notify.salt AS s))) AS is_meant
), held AS (
    SELECT c.user_id, c.device, c.seq AS after_seq, r.seq AS to_seq, r.ord
    FROM unnest($1::text[], $2::text[], $3::bigint[]) WITH ORDINALITY AS r (user_id, device, seq, ord)
    CROSS JOIN LATERAL (
        SELECT x.user_id, x.device, x.seq FROM notify.cursor AS x
        WHERE x.user_id = r.user_id AND x.device = r.device AND x.seq < r.seq
          AND EXISTS (SELECT FROM notify.mailbox AS m WHERE m.user_id = r.user_id AND m.head >= r.seq OFFSET 0)
        FOR UPDATE SKIP LOCKED
    ) AS c
    WHERE (SELECT h.is_meant FROM here AS h)
), moved AS (
    INSERT INTO notify.cursor (user_id, device, seq, seen_at) SELECT h.user_id, h.device, h.to_seq, now() FROM held AS h
    ON CONFLICT (user_id, device) DO UPDATE SET seq = excluded.seq, seen_at = excluded.seen_at
), written AS (
    INSERT INTO notify.ack (user_id, device, to_seq, after_seq, at)
    SELECT h.user_id, h.device, h.to_seq, h.after_seq, clock_timestamp() FROM held AS h
    RETURNING 1
)
SELECT CASE WHEN (SELECT count(*) FROM held) = cardinality($1::text[]) THEN '{}'::integer[] WHEN (SELECT h.is_meant FROM here AS h) THEN ARRAY(
    SELECT r.ord::integer
    FROM unnest($1::text[], $2::text[], $3::bigint[]) WITH ORDINALITY AS r (user_id, device, seq, ord)
    CROSS JOIN LATERAL (
        SELECT FROM notify.cursor AS x WHERE x.user_id = r.user_id AND x.device = r.device AND x.seq < r.seq OFFSET 0
    ) AS c
    WHERE EXISTS (SELECT FROM notify.mailbox AS m WHERE m.user_id = r.user_id AND m.head >= r.seq OFFSET 0)
    EXCEPT SELECT h.ord::integer FROM held AS h
) END, (SELECT count(*) FROM written)

-- name: read_heads
-- The heads of some mailboxes, to find out which moved while nobody was listening. Primary key.
SELECT m.user_id, m.head FROM notify.mailbox AS m WHERE m.user_id = ANY ($1::text[])

-- name: find_head
-- The head of one mailbox, and what its epoch is made of beside the database's. Primary key.
SELECT m.head, m.born FROM notify.mailbox AS m WHERE m.user_id = $1

-- name: read_epoch
-- What makes this database this database: another cluster, timeline (a failover or a restore), database or salt is another epoch.
-- A replica has no timeline of its own to write, hence none here. No table but the one row of the salt. In move_cursors again.
SELECT md5(concat_ws('/', (SELECT c.system_identifier FROM pg_control_system() AS c), (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database()),
    CASE WHEN NOT pg_is_in_recovery() THEN left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) END,
    (SELECT s.value FROM notify.salt AS s)))
