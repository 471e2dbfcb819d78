-- How far each kind of retention has walked. One walker at a time in the cluster: it holds the row.
CREATE TABLE notify.walk (
    kind text PRIMARY KEY,
    user_id text COLLATE "C" NOT NULL DEFAULT ''
);
INSERT INTO notify.walk (kind) VALUES ('mailboxes');

-- Lets go of entries older than the cutoff, a few mailboxes a call: walks the mailboxes in the order of their ids, looks at the
-- oldest entry of each, and takes at most max_entries entries in all; what is left of a mailbox goes when the walk comes by
-- again. Whoever is busy is passed over. The floor rises over what is taken, so that a device that
-- still needed it is told. Answers with how many entries went. Primary keys; no scan of everything.
CREATE FUNCTION notify.retain_mailboxes(cutoff timestamptz, max_mailboxes integer, max_entries integer) RETURNS bigint
LANGUAGE plpgsql SET lock_timeout = '250ms' AS $$
DECLARE
    place notify.walk%ROWTYPE;
    box record;
    last_user text;
    row_count bigint;
    old_floor bigint;
    new_floor bigint;
    uncounted bigint;
    taken bigint := 0;
BEGIN
    SELECT * INTO place FROM notify.walk AS w WHERE w.kind = 'mailboxes' FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN 0;
    END IF;
    FOR box IN
        SELECT m.user_id, (
            SELECT e.at FROM notify.entry AS e WHERE e.user_id = m.user_id ORDER BY e.seq LIMIT 1
        ) AS oldest
        FROM notify.mailbox AS m WHERE m.user_id > place.user_id ORDER BY m.user_id LIMIT max_mailboxes
    LOOP
        EXIT WHEN taken >= max_entries;
        last_user := box.user_id;
        CONTINUE WHEN box.oldest IS NULL OR box.oldest >= cutoff;
        SELECT m.floor INTO old_floor FROM notify.mailbox AS m WHERE m.user_id = box.user_id FOR UPDATE SKIP LOCKED;
        CONTINUE WHEN NOT FOUND;
        SELECT max(o.seq) INTO new_floor FROM (
            SELECT e.seq FROM notify.entry AS e
            WHERE e.user_id = box.user_id AND e.at < cutoff ORDER BY e.seq LIMIT max_entries - taken
        ) AS o;
        SELECT count(*) INTO uncounted
        FROM notify.entry AS e JOIN notify.notification AS n ON n.id = e.notification_id
        WHERE e.user_id = box.user_id AND e.seq <= new_floor AND e.kind = 1 AND NOT n.swept
          AND notify.counts_as_unread(e.user_id, e.seq, LEAST(n.expires_at, clock_timestamp()));
        DELETE FROM notify.entry AS e WHERE e.user_id = box.user_id AND e.seq <= new_floor;
        GET DIAGNOSTICS row_count = ROW_COUNT;
        taken := taken + row_count;
        DELETE FROM notify.ending AS x WHERE x.user_id = box.user_id AND x.seq <= new_floor;
        DELETE FROM notify.ack AS a WHERE a.user_id = box.user_id AND a.to_seq <= new_floor;
        DELETE FROM notify.reading AS r WHERE r.user_id = box.user_id AND r.to_seq <= new_floor;
        DELETE FROM notify.collapse_slot AS s WHERE s.user_id = box.user_id AND s.seq <= new_floor;
        DELETE FROM notify.cursor AS c
        WHERE c.user_id = box.user_id AND c.removed AND c.seen_at < cutoff
          AND c.seq < (SELECT max(a.seq) FROM notify.cursor AS a WHERE a.user_id = box.user_id);
        UPDATE notify.mailbox AS m SET floor = GREATEST(m.floor, new_floor), unread = m.unread - uncounted
        WHERE m.user_id = box.user_id;
    END LOOP;
    UPDATE notify.walk AS w SET user_id = COALESCE(last_user, '') WHERE w.kind = 'mailboxes';
    RETURN taken;
END $$;
