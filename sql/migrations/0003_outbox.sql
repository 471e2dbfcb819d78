-- Releases what is due, in the order of (due_at, id): numbers it and takes it out of the outbox in one commit.
-- One releaser at a time in the whole cluster (an advisory lock, gone with its transaction); the others return at once.
-- A row whose mailbox somebody holds stays for the next round; a bad one is set aside and says why. outbox_due.
CREATE FUNCTION notify.release(max_rows integer, max_pending bigint) RETURNS bigint
LANGUAGE plpgsql SET lock_timeout = '250ms' AS $$
DECLARE
    due record;
    released bigint := 0;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('notify outbox', 2)) THEN
        RETURN 0;
    END IF;
    FOR due IN
        SELECT o.id, o.users, n.collapse_key, n.expires_at
        FROM notify.outbox AS o JOIN notify.notification AS n ON n.id = o.id
        WHERE o.due_at <= clock_timestamp() AND o.problem IS NULL
        ORDER BY o.due_at, o.id LIMIT max_rows
        FOR UPDATE OF o SKIP LOCKED
    LOOP
        BEGIN
            IF due.expires_at <= clock_timestamp() THEN
                UPDATE notify.outbox AS o SET problem = 'expired' WHERE o.id = due.id;
            ELSE
                DELETE FROM notify.outbox AS o WHERE o.id = due.id;
                PERFORM notify.number(
                    array_fill(due.id, ARRAY[cardinality(due.users)]), due.users,
                    array_fill(due.collapse_key, ARRAY[cardinality(due.users)]), max_pending);
                released := released + 1;
            END IF;
        EXCEPTION
            WHEN lock_not_available OR deadlock_detected THEN
                NULL;  -- stays where it is: the next round is soon
            WHEN data_exception OR integrity_constraint_violation OR program_limit_exceeded THEN
                UPDATE notify.outbox AS o SET problem = SQLERRM WHERE o.id = due.id;
        END;
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
            ELSIF token !~ '[eE]-' AND abs(token::float8) = 'infinity' THEN
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
    collapse_key text DEFAULT NULL, deliver_at timestamptz DEFAULT NULL, recipients text[] DEFAULT NULL, topic text DEFAULT NULL
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
