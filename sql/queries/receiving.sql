-- name: look
-- Where mailboxes and the cursors of devices stand. An absent mailbox or cursor is NULL. Primary keys; whether anything expired
-- that was not swept yet, which is seldom, is asked once for all of them: notification_unswept.
SELECT m.head, m.floor, m.born, c.seq, c.removed,
       CASE WHEN (
           SELECT EXISTS (SELECT FROM notify.notification AS n WHERE NOT n.swept AND n.expires_at <= (SELECT clock_timestamp()))
       ) THEN notify.unread(m.user_id) ELSE m.unread END AS unread
FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS r (user_id, device, ord)
LEFT JOIN notify.mailbox AS m ON m.user_id = r.user_id
LEFT JOIN notify.cursor AS c ON c.user_id = r.user_id AND c.device = r.device
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
JOIN notify.mailbox AS m ON m.user_id = r.user_id
LEFT JOIN LATERAL (
    SELECT e.*, n.type, n.producer, n.context, n.codec, n.created_at, n.data,
           e.kind <> 1 OR (x.seq IS NULL AND n.expires_at > clock_timestamp()) AS live,
           sum(COALESCE(octet_length(n.data), 0)) OVER (ORDER BY e.seq) - COALESCE(octet_length(n.data), 0) AS bytes_before
    FROM (
        SELECT e.seq, e.kind, e.notification_id, e.target, e.seqs, e.unread, e.at FROM notify.entry AS e
        WHERE e.user_id = r.user_id AND e.seq > GREATEST(r.after, m.floor) ORDER BY e.seq LIMIT r.room
    ) AS e
    LEFT JOIN notify.notification AS n ON e.kind = 1 AND n.id = e.notification_id
    LEFT JOIN notify.ending AS x ON e.kind = 1 AND x.user_id = r.user_id AND x.seq = e.seq
) AS p ON p.bytes_before < r.size
ORDER BY r.ord, p.seq

-- name: move_cursors
-- Acknowledges: moves cursors forward, never back and never past the head, and writes down what each move covered. In a database
-- that is another one than the acks are for (its epoch, see read_epoch, is not $4), it moves nothing and answers with NULL.
-- A cursor that somebody holds (a cancel deciding what is pending) is passed over, so that it holds up nobody else's.
-- Primary keys; answers with the places of those, which are to be tried again. Who was passed over is only asked where not all moved.
WITH here AS (
    SELECT $4::text = md5(concat_ws('/', (SELECT c.system_identifier FROM pg_control_system() AS c), (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database()),
        CASE WHEN NOT pg_is_in_recovery() THEN left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) END,
        (SELECT s.value FROM notify.salt AS s))) AS is_meant
), held AS (
    SELECT c.user_id, c.device, c.seq AS after_seq, r.seq AS to_seq, r.ord
    FROM unnest($1::text[], $2::text[], $3::bigint[]) WITH ORDINALITY AS r (user_id, device, seq, ord)
    JOIN notify.cursor AS c ON c.user_id = r.user_id AND c.device = r.device
    JOIN notify.mailbox AS m ON m.user_id = r.user_id AND m.head >= r.seq
    WHERE c.seq < r.seq AND (SELECT h.is_meant FROM here AS h)
    ORDER BY c.user_id, c.device
    FOR UPDATE OF c SKIP LOCKED
), moved AS (
    UPDATE notify.cursor AS c SET seq = h.to_seq, seen_at = now()
    FROM held AS h WHERE c.user_id = h.user_id AND c.device = h.device
    RETURNING c.user_id, c.device, h.after_seq, h.to_seq
), written AS (
    INSERT INTO notify.ack (user_id, device, to_seq, after_seq, at)
    SELECT v.user_id, v.device, v.to_seq, v.after_seq, clock_timestamp() FROM moved AS v
    RETURNING 1
)
SELECT CASE WHEN (SELECT count(*) FROM held) = cardinality($1::text[]) THEN '{}'::integer[] WHEN (SELECT h.is_meant FROM here AS h) THEN ARRAY(
    SELECT r.ord::integer
    FROM unnest($1::text[], $2::text[], $3::bigint[]) WITH ORDINALITY AS r (user_id, device, seq, ord)
    JOIN notify.cursor AS c ON c.user_id = r.user_id AND c.device = r.device
    JOIN notify.mailbox AS m ON m.user_id = r.user_id AND m.head >= r.seq
    WHERE c.seq < r.seq
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
