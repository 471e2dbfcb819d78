-- name: list_inbox
-- A user's notifications before a seq, newest first, as many as fit in $5 bytes of data but at least one; with $4 only those
-- unread. What is over is left out. Primary key of entry, walked backwards, for unread ones down to the read mark; endings and
-- marks by primary key. Sizes are read without the data.
SELECT q.* FROM (
    SELECT p.*, sum(octet_length(p.data)) OVER (ORDER BY p.seq DESC) - octet_length(p.data) AS bytes_before
    FROM (
        SELECT e.seq, n.id, n.type, n.data, n.codec, n.producer, n.context, n.created_at, n.expires_at,
               notify.read_at(e.user_id, e.seq) AS read_at
        FROM notify.entry AS e
        CROSS JOIN LATERAL (SELECT x.* FROM notify.notification AS x WHERE x.id BETWEEN e.notification_id AND e.notification_id ORDER BY x.id LIMIT 1) AS n
        WHERE e.user_id = $1 AND e.seq < $2 AND e.kind = 1 AND n.expires_at > clock_timestamp()
          AND NOT EXISTS (SELECT FROM notify.ending AS x WHERE x.user_id = e.user_id AND x.seq = e.seq OFFSET 0)
          AND e.seq > CASE WHEN $4::boolean THEN COALESCE((SELECT m.read_to FROM notify.mailbox AS m WHERE m.user_id = $1), 0)
                      ELSE 0 END
          AND (NOT $4 OR NOT EXISTS (
              SELECT FROM notify.reading AS r WHERE r.user_id = e.user_id AND NOT r.ranged AND r.to_seq = e.seq OFFSET 0
          ))
        ORDER BY e.seq DESC LIMIT $3
    ) AS p
) AS q
WHERE q.bytes_before < $5 ORDER BY q.seq DESC

-- name: count_unread
-- What is unread now, NULL without a mailbox. Primary key; see the function.
SELECT notify.unread($1)

-- name: mark_read
-- Marks read up to a seq, or some seqs; answers with the unread that are left, NULL without a mailbox. See the function.
SELECT notify.mark_read($1, $2, $3)

-- name: list_devices
-- The devices of a user, in the order of their names. Primary key.
SELECT c.device, c.seq, c.seen_at FROM notify.cursor AS c WHERE c.user_id = $1 AND NOT c.removed ORDER BY c.device

-- name: remove_device
-- Forgets a device; what it acknowledged stays acknowledged. Primary key.
UPDATE notify.cursor AS c SET removed = true WHERE c.user_id = $1 AND c.device = $2 AND NOT c.removed RETURNING c.seq

-- name: announce_ack
-- Tells sessions of a device, on whatever node, that it acknowledged elsewhere. No table.
SELECT pg_notify('notify_ack', $1)
