-- How far each kind of retention has walked. One walker at a time in the cluster: it holds the row.
CREATE TABLE notify.walk (
    kind text PRIMARY KEY,
    user_id text COLLATE "C" NOT NULL DEFAULT '',   -- the last one looked at, of those that walk mailboxes
    at timestamptz NOT NULL DEFAULT '-infinity',    -- the same of those that walk notifications: when it was made, ...
    id uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000'  -- ... and its id
);
INSERT INTO notify.walk (kind) VALUES ('mailboxes'), ('notifications');

-- Lets go of entries older than the cutoff, a few mailboxes a call: walks the mailboxes in the order of their ids, looks at the
-- oldest entry of each, and takes at most max_entries entries in all; the next call goes on where there was too much for one.
-- Whoever is busy is passed over. The floor rises over what is taken, so that a device that
-- still needed it is told. Answers with how many entries went. Primary keys; no scan of everything.
CREATE FUNCTION notify.retain_mailboxes(cutoff timestamptz, max_mailboxes integer, max_entries integer) RETURNS bigint
LANGUAGE plpgsql SET lock_timeout = '250ms' AS $$
DECLARE
    place notify.walk%ROWTYPE;
    box record;
    looked bigint := 0;
    last_user text;
    previous_user text;
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
        looked := looked + 1;
        previous_user := last_user;
        last_user := box.user_id;
        CONTINUE WHEN box.oldest IS NULL OR box.oldest >= cutoff;
        SELECT m.floor INTO old_floor FROM notify.mailbox AS m WHERE m.user_id = box.user_id FOR UPDATE SKIP LOCKED;
        CONTINUE WHEN NOT FOUND;
        -- Counted first, then looked at: a search for old ones would go through all the younger ones behind the last of them.
        SELECT max(o.seq) INTO new_floor FROM (
            SELECT e.seq, e.at FROM notify.entry AS e WHERE e.user_id = box.user_id ORDER BY e.seq LIMIT max_entries - taken
        ) AS o WHERE o.at < cutoff;
        SELECT count(*) INTO uncounted
        FROM notify.entry AS e JOIN notify.notification AS n ON n.id = e.notification_id
        WHERE e.user_id = box.user_id AND e.seq <= new_floor AND e.kind = 1 AND NOT n.swept
          AND notify.counts_as_unread(e.user_id, e.seq, LEAST(n.expires_at, clock_timestamp()));
        DELETE FROM notify.entry AS e WHERE e.user_id = box.user_id AND e.seq <= new_floor;
        GET DIAGNOSTICS row_count = ROW_COUNT;
        taken := taken + row_count;
        DELETE FROM notify.ending AS x WHERE x.user_id = box.user_id AND x.seq <= new_floor;
        DELETE FROM notify.ack AS a USING notify.cursor AS c
        WHERE c.user_id = box.user_id AND a.user_id = box.user_id AND a.device = c.device AND a.to_seq <= new_floor;
        DELETE FROM notify.reading AS r WHERE r.user_id = box.user_id AND r.ranged IN (true, false) AND r.to_seq <= new_floor;
        DELETE FROM notify.collapse_slot AS s WHERE s.user_id = box.user_id AND s.seq <= new_floor;
        -- A removed device goes once everything that only it may have acknowledged is gone.
        DELETE FROM notify.cursor AS c
        WHERE c.user_id = box.user_id AND c.removed AND c.seen_at < cutoff AND c.seq <= new_floor
          AND c.seq < (SELECT max(a.seq) FROM notify.cursor AS a WHERE a.user_id = box.user_id);
        UPDATE notify.mailbox AS m SET floor = GREATEST(m.floor, new_floor), unread = m.unread - uncounted
        WHERE m.user_id = box.user_id;
        IF taken >= max_entries THEN
            last_user := COALESCE(previous_user, place.user_id);
        END IF;
    END LOOP;
    IF looked < max_mailboxes AND taken < max_entries THEN
        last_user := '';  -- that was the last one: round again
    END IF;
    UPDATE notify.walk AS w SET user_id = COALESCE(last_user, '') WHERE w.kind = 'mailboxes';
    RETURN taken;
END $$;

-- Lets go of notifications older than the cutoff that no mailbox holds and that wait for nothing, with their rows in the outbox.
-- Walks them in the order of their age, max_looked a call, so that those still held are not looked at over and over.
-- Answers with how many went. notification_age, entry_notification.
CREATE FUNCTION notify.retain_notifications(cutoff timestamptz, max_looked integer) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    place notify.walk%ROWTYPE;
    looked uuid[];
    times timestamptz[];
    gone uuid[];
BEGIN
    SELECT * INTO place FROM notify.walk AS w WHERE w.kind = 'notifications' FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN 0;
    END IF;
    SELECT array_agg(n.id ORDER BY n.created_at, n.id), array_agg(n.created_at ORDER BY n.created_at, n.id) INTO looked, times
    FROM (
        SELECT n.id, n.created_at FROM notify.notification AS n
        WHERE (n.created_at, n.id) > (place.at, place.id) AND n.created_at < cutoff
        ORDER BY n.created_at, n.id LIMIT max_looked
    ) AS n;
    WITH deleted AS (
        DELETE FROM notify.notification AS n
        WHERE n.id = ANY (looked)
          AND NOT EXISTS (SELECT FROM notify.entry AS e WHERE e.notification_id = n.id AND e.kind = 1)
          AND NOT EXISTS (SELECT FROM notify.outbox AS o WHERE o.id = n.id AND o.problem IS NULL)
        RETURNING n.id
    )
    SELECT COALESCE(array_agg(d.id), '{}') INTO gone FROM deleted AS d;
    DELETE FROM notify.outbox AS o WHERE o.id = ANY (gone);
    IF cardinality(looked) = max_looked THEN
        UPDATE notify.walk AS w SET at = times[max_looked], id = looked[max_looked] WHERE w.kind = 'notifications';
    ELSE
        UPDATE notify.walk AS w SET at = '-infinity' WHERE w.kind = 'notifications' AND w.at <> '-infinity';
    END IF;
    RETURN cardinality(gone);
END $$;
