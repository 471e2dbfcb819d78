-- Those of some users whose mailboxes somebody else holds at this moment; the others are held by the caller from here on.
-- Waits for nobody. Primary key.
CREATE FUNCTION notify.grab(users text[]) RETURNS text[]
LANGUAGE sql VOLATILE AS $$
    WITH free AS (
        SELECT m.user_id FROM notify.mailbox AS m WHERE m.user_id = ANY (users) ORDER BY m.user_id FOR UPDATE SKIP LOCKED
    )
    SELECT COALESCE(array_agg(m.user_id), '{}') FROM notify.mailbox AS m
    WHERE m.user_id = ANY (users) AND m.user_id NOT IN (SELECT f.user_id FROM free AS f)
$$;

-- Releases what is due, in the order of (due_at, id): numbers it and takes it out of the outbox in one commit. Answers with how
-- many rows it got anywhere with. One releaser at a time in the whole cluster (an advisory lock, gone with its transaction);
-- the others return at once. Whose mailbox somebody holds waits in the outbox, all that is due to them in its order, and
-- nobody else does; a row with more recipients than max_recipients goes in several calls; a bad one is set aside and says why.
-- Ends after a fifth of a second of work, since the mailboxes are held for as long. outbox_due.
CREATE FUNCTION notify.release(max_recipients integer, max_pending bigint) RETURNS bigint
LANGUAGE plpgsql SET lock_timeout = '250ms' AS $$
DECLARE
    moment timestamptz := clock_timestamp();
    due record;
    part text[];          -- the recipients whose turn it is,
    blocked text[];       -- those of them who have to wait,
    rest text[];          -- and all who stay in the outbox
    held text[] := '{}';  -- everyone found blocked in this call: nothing of theirs may overtake what waits for them
    room integer := max_recipients;
    waited interval := '0'; -- for mailboxes that somebody was just making
    begun timestamptz;
    found_any boolean := true;
    released bigint := 0;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('notify outbox', 2)) THEN
        RETURN 0;
    END IF;
    <<rounds>>
    WHILE found_any LOOP
        found_any := false;
        FOR due IN
            SELECT o.id, o.users, n.collapse_key, n.expires_at
            FROM notify.outbox AS o JOIN notify.notification AS n ON n.id = o.id
            WHERE o.due_at <= moment AND o.problem IS NULL AND (held = '{}' OR NOT o.users <@ held)
            ORDER BY o.due_at, o.id LIMIT 200
            FOR UPDATE OF o SKIP LOCKED
        LOOP
            begun := clock_timestamp();
            EXIT rounds WHEN room <= 0 OR begun > moment + waited + interval '200 milliseconds' OR waited > interval '1 second';
            found_any := true;
            CONTINUE WHEN due.users <@ held AND due.users <> '{}';
            BEGIN
                IF due.expires_at <= clock_timestamp() THEN
                    UPDATE notify.outbox AS o SET problem = 'expired' WHERE o.id = due.id;
                ELSE
                    part := due.users[:max_recipients];
                    blocked := notify.grab(part);
                    IF held && part THEN
                        blocked := blocked || ARRAY(SELECT unnest(held) INTERSECT SELECT unnest(part) EXCEPT SELECT unnest(blocked));
                    END IF;
                    rest := blocked || due.users[max_recipients + 1:];
                    IF blocked <> '{}' THEN
                        part := ARRAY(SELECT unnest(part) EXCEPT SELECT unnest(blocked));
                    END IF;
                    IF rest = '{}' THEN
                        DELETE FROM notify.outbox AS o WHERE o.id = due.id;
                    ELSIF part <> '{}' THEN
                        UPDATE notify.outbox AS o SET users = rest WHERE o.id = due.id;
                    END IF;
                    IF part <> '{}' THEN
                        PERFORM notify.number(
                            array_fill(due.id, ARRAY[cardinality(part)]), part,
                            array_fill(due.collapse_key, ARRAY[cardinality(part)]), max_pending);
                    END IF;
                    held := held || blocked;
                    room := room - cardinality(part);
                    CONTINUE WHEN part = '{}' AND rest <> '{}';
                    -- Nothing may overtake what is left of a long one.
                    room := CASE WHEN cardinality(due.users) > max_recipients THEN 0 ELSE room END;
                END IF;
                released := released + 1;
            EXCEPTION
                WHEN lock_not_available OR deadlock_detected THEN
                    held := held || due.users;  -- stays where it is: the next call is soon
                    waited := waited + (clock_timestamp() - begun);
                WHEN data_exception OR integrity_constraint_violation OR program_limit_exceeded THEN
                    UPDATE notify.outbox AS o SET problem = SQLERRM WHERE o.id = due.id;
                    released := released + 1;
            END;
        END LOOP;
    END LOOP;
    RETURN released;
END $$;

-- Why a JSON text may not be stored: the rules that the REST door keeps as well, so that every client can read it back.
-- NULL when it may. Works on the text without its strings, since jsonb would blow up `1e131071` to megabytes.
CREATE FUNCTION notify.refuse_data(data text) RETURNS text
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    outline text;
    token text;
    level integer := 0;
BEGIN
    IF octet_length(data) > 65536 THEN
        RETURN 'data has more than 65,536 bytes';
    END IF;
    IF strpos(data, '\u') > 0 THEN
        BEGIN  -- jsonb refuses U+0000 and lone surrogates; of the strings alone, numbers can do no harm
            PERFORM ('[' || array_to_string(ARRAY(
                SELECT m[1] FROM regexp_matches(data, '("(?:[^"\\]|\\.)*")', 'g') AS m), ',') || ']')::jsonb;
        EXCEPTION WHEN OTHERS THEN
            RETURN 'data holds a NUL or a lone surrogate';
        END;
    END IF;
    outline := regexp_replace(data, '"(?:[^"\\]|\\.)*"', '""', 'g');
    IF length(outline) - length(translate(outline, '[{', '')) > 64 THEN
        FOR token IN SELECT m[1] FROM regexp_matches(outline, '([][{}])', 'g') AS m LOOP
            level := level + CASE WHEN token IN ('[', '{') THEN 1 ELSE -1 END;
            IF level > 64 THEN
                RETURN 'data has more than 64 levels';
            END IF;
        END LOOP;
    END IF;
    FOR token IN SELECT m[1] FROM regexp_matches(outline, '(-?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)', 'g') AS m
        WHERE length(m[1]) >= 19 OR m[1] ~ '[eE]'
    LOOP
        BEGIN
            IF token ~ '^-?[0-9]+$' THEN
                IF length(token) > 21 OR token::numeric NOT BETWEEN -9223372036854775808 AND 18446744073709551615 THEN
                    RETURN 'data holds a number beyond 64-bit integers or doubles';
                END IF;
            ELSIF token ~ '[eE]-' THEN
                IF length(token) > 300 THEN  -- shorter ones are small, and PostgreSQL refuses those that are zero to others
                    RETURN 'data holds a number that is too long';
                END IF;
            ELSIF abs(token::float8) = 'infinity' THEN
                RETURN 'data holds a number beyond 64-bit integers or doubles';
            END IF;
        EXCEPTION WHEN numeric_value_out_of_range THEN
            RETURN 'data holds a number beyond 64-bit integers or doubles';
        END;
    END LOOP;
    RETURN NULL;
END $$;

-- Raises when a name (of a user, a type, a topic, a key) is not one. Characters below U+0020 and U+007F to U+009F are control characters.
CREATE FUNCTION notify.check_name(what text, value text, max_length integer) RETURNS void
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF value IS NULL OR length(value) NOT BETWEEN 1 AND max_length OR value ~ '[\u0001-\u001f\u007f-\u009f]' THEN
        RAISE EXCEPTION 'notify.send: % must have 1 to % characters, none a control character', what, max_length
            USING ERRCODE = '22023';
    END IF;
END $$;

-- The transactional door: delivered within a second of the caller's commit, or never. Takes no lock that anybody waits for.
-- Runs with the rights of its owner, hence the fixed search_path
-- (https://www.postgresql.org/docs/current/sql-createfunction.html#SQL-CREATEFUNCTION-SECURITY); grant it to the app's role:
--     GRANT USAGE ON SCHEMA notify TO app; GRANT EXECUTE ON FUNCTION notify.send TO app;
CREATE FUNCTION notify.send(
    type text, recipient text DEFAULT NULL, data json DEFAULT 'null', ttl integer DEFAULT 2419200,
    collapse_key text DEFAULT NULL, deliver_at timestamptz DEFAULT NULL, recipients text[] DEFAULT NULL, topic text DEFAULT NULL,
    undelivered_after integer DEFAULT NULL
) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    minted uuid := gen_random_uuid();
    moment timestamptz := clock_timestamp();
    users text[];
    problem text;
BEGIN
    IF num_nonnulls(recipient, recipients, topic) <> 1 THEN
        RAISE EXCEPTION 'notify.send: give one of recipient, recipients and topic' USING ERRCODE = '22023';
    END IF;
    PERFORM notify.check_name('type', type, 128);
    IF collapse_key IS NOT NULL THEN
        PERFORM notify.check_name('collapse_key', collapse_key, 64);
    END IF;
    IF ttl IS NULL OR ttl NOT BETWEEN 1 AND 2419200 THEN
        RAISE EXCEPTION 'notify.send: ttl must be 1 to 2419200 seconds' USING ERRCODE = '22023';
    END IF;
    IF deliver_at > moment + interval '30 days' OR deliver_at = '-infinity' THEN
        RAISE EXCEPTION 'notify.send: deliver_at must be at most 30 days ahead' USING ERRCODE = '22023';
    END IF;
    IF undelivered_after NOT BETWEEN 10 AND 604800 THEN
        RAISE EXCEPTION 'notify.send: undelivered_after must be 10 to 604800 seconds' USING ERRCODE = '22023';
    END IF;
    problem := notify.refuse_data(COALESCE(data::text, 'null'));
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION 'notify.send: %', problem USING ERRCODE = '22023';
    END IF;
    IF topic IS NOT NULL THEN
        PERFORM notify.check_name('topic', topic, 255);
        SELECT COALESCE(array_agg(s.user_id ORDER BY s.user_id), '{}') INTO users FROM notify.subscription AS s WHERE s.topic = send.topic;
    ELSE
        SELECT array_agg(u ORDER BY ord) INTO users FROM (
            SELECT DISTINCT ON (u) u, ord FROM unnest(COALESCE(recipients, ARRAY[recipient])) WITH ORDINALITY AS r (u, ord) ORDER BY u, ord
        ) AS r;
        PERFORM notify.check_name('recipient', u, 255) FROM unnest(users) AS u;
        IF users IS NULL THEN
            RAISE EXCEPTION 'notify.send: needs at least one recipient' USING ERRCODE = '22023';
        END IF;
    END IF;
    IF cardinality(users) > 10000 THEN
        RAISE EXCEPTION 'notify.send: at most 10,000 recipients' USING ERRCODE = '54000';
    END IF;
    INSERT INTO notify.notification (id, producer, type, data, recipients, created_at, expires_at, collapse_key)
    VALUES (minted, session_user, send.type, convert_to(COALESCE(data::text, 'null'), 'UTF8'), cardinality(users), moment,
            GREATEST(deliver_at, moment) + make_interval(secs => ttl), send.collapse_key);
    INSERT INTO notify.outbox (id, due_at, users)
    SELECT minted, GREATEST(deliver_at, moment), users WHERE cardinality(users) > 0;
    INSERT INTO notify.deadline (id, due_at)
    SELECT minted, GREATEST(deliver_at, moment) + make_interval(secs => undelivered_after) WHERE undelivered_after IS NOT NULL;
    RETURN minted;
END $$;
REVOKE ALL ON FUNCTION notify.send FROM PUBLIC;

-- Who gets what is sent to a topic.
CREATE TABLE notify.subscription (
    topic text COLLATE "C" NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    PRIMARY KEY (topic, user_id)
);
CREATE INDEX subscription_user ON notify.subscription (user_id);
