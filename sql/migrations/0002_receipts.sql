-- When an entry was first marked read, by itself or by a mark above it. Both by primary key.
CREATE FUNCTION notify.read_at(reader text, entry_seq bigint) RETURNS timestamptz
LANGUAGE sql STABLE AS $$
    SELECT LEAST(
        (SELECT r.at FROM notify.reading AS r WHERE r.user_id = reader AND NOT r.ranged AND r.to_seq = entry_seq),
        (SELECT f.at FROM (
            SELECT r.at, r.after_seq FROM notify.reading AS r
            WHERE r.user_id = reader AND r.ranged AND r.to_seq >= entry_seq ORDER BY r.to_seq LIMIT 1
        ) AS f WHERE f.after_seq < entry_seq)
    )
$$;

-- How each recipient of a notification stands, derived from what happened: the first of acknowledged, cancelled, collapsed,
-- truncated and expired decides, and then it stays. A recipient to whom it was queued again counts as delivered if any was.
-- One row a recipient; entries by entry_notification, the rest by primary keys.
CREATE FUNCTION notify.receipts(notification uuid)
RETURNS TABLE (user_id text, seq bigint, status text, delivered_at timestamptz, read_at timestamptz)
LANGUAGE sql STABLE AS $$
    SELECT DISTINCT ON (w.user_id) w.user_id, w.seq,
        CASE WHEN w.acked_at IS NULL THEN w.fate WHEN w.read_at IS NOT NULL THEN 'read' ELSE 'delivered' END,
        w.acked_at, w.read_at
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
        -- The first acknowledgement that covered it, of any device: one step into each device's history.
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
    ORDER BY w.user_id, w.acked_at IS NULL, w.seq DESC
$$;

-- How the recipients of a row in the outbox stand. One that could not be released is over as well: it says why to operators.
CREATE FUNCTION notify.outbox_status(problem text) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN problem IS NULL THEN 'scheduled' WHEN problem = 'expired' THEN 'expired' ELSE 'cancelled' END
$$;
