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
-- truncated and expired decides, and then it stays. A recipient to whom it was queued again (reason 4) counts as delivered or
-- read if any of its entries was; otherwise the newest one's fate counts. Only what was read before it was over was read.
-- One row a recipient, in the order of their ids, after one of them and up to max_rows (NULL: all), or of one of them only.
-- What was written in time may commit a moment after the notification expired, and nobody may be told `expired` before that: as
-- long as a statement of ours runs that began before, it is undecided. None takes as long as ten seconds.
-- entry_notification, the rest by primary keys.
CREATE FUNCTION notify.receipts(notification uuid, after text DEFAULT '', max_rows integer DEFAULT NULL, only_user text DEFAULT NULL)
RETURNS TABLE (user_id text, seq bigint, status text, delivered_at timestamptz, read_at timestamptz)
LANGUAGE plpgsql VOLATILE ROWS 100 SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
#variable_conflict use_column
DECLARE
    moment timestamptz := clock_timestamp();
    page text[];
    undecided boolean;
BEGIN
    IF only_user IS NULL THEN
        page := ARRAY(
            SELECT DISTINCT e.user_id FROM notify.entry AS e
            WHERE e.notification_id = notification AND e.kind = 1 AND e.user_id > after ORDER BY e.user_id LIMIT max_rows
        );
    ELSE
        page := ARRAY[only_user];
    END IF;
    -- Asked before the query below looks: what it does not find committed then never was in time.
    undecided := EXISTS (
        SELECT FROM notify.notification AS n CROSS JOIN LATERAL (
            SELECT FROM pg_stat_activity AS a
            WHERE a.datname = current_database() AND a.application_name = 'notify' AND a.pid <> pg_backend_pid()
              AND a.xact_start <= n.expires_at LIMIT 1
        ) AS a
        WHERE n.id = notification AND n.expires_at <= moment AND n.expires_at > moment - interval '10 seconds'
    );
    RETURN QUERY
    SELECT w.user_id, max(w.seq),
        CASE WHEN min(w.acked_at) IS NULL THEN (array_agg(w.fate ORDER BY w.seq DESC))[1]
             WHEN min(w.read_at) IS NOT NULL THEN 'read' ELSE 'delivered' END,
        min(w.acked_at), min(w.read_at)
    FROM (
        SELECT e.user_id, e.seq,
            CASE WHEN r.at <= LEAST(x.at, n.expires_at) THEN r.at END AS read_at,
            CASE WHEN a.at <= LEAST(x.at, n.expires_at) THEN a.at END AS acked_at,
            CASE
                WHEN x.at <= n.expires_at THEN (ARRAY['cancelled', 'collapsed', 'expired'])[x.reason]
                WHEN n.expires_at <= moment AND NOT undecided THEN 'expired'
                ELSE 'pending'
            END AS fate
        FROM notify.entry AS e
        JOIN notify.notification AS n ON n.id = e.notification_id
        -- OFFSET 0 keeps the planner from rearranging a look-up by the whole key.
        LEFT JOIN LATERAL (SELECT * FROM notify.ending AS y WHERE y.user_id = e.user_id AND y.seq = e.seq OFFSET 0) AS x ON true
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
        WHERE e.notification_id = notification AND e.kind = 1 AND e.user_id = ANY (page)
    ) AS w
    GROUP BY w.user_id ORDER BY w.user_id;
END $$;

-- How the recipients of a row in the outbox stand. One that could not be released is over as well: it says why to operators.
CREATE FUNCTION notify.outbox_status(problem text) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN problem IS NULL THEN 'scheduled' WHEN problem = 'expired' THEN 'expired' ELSE 'cancelled' END
$$;
