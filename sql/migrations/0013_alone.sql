-- A notification that is alone in its flight, for one user: what an idle service stores.

-- Stores one notification for one user, due now, without keys and without a patience: what notify.deposit does for it, of plain
-- values instead of arrays; that way of notify.deposit is left to what has a key or a patience. Answers with the moment of it.
-- Primary keys.
CREATE FUNCTION notify.deposit_alone(
    batch uuid, id uuid, producer text, type text, data bytea, codec smallint, ttl integer, context text, recipient text,
    max_pending bigint
) RETURNS timestamptz
LANGUAGE plpgsql SET lock_timeout = '250ms' AS $$
DECLARE
    moment timestamptz := clock_timestamp();
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(batch::text, 0));
    -- Whether it was given up. Primary key.
    PERFORM FROM notify.abandoned AS a WHERE a.batch = deposit_alone.batch;
    IF FOUND THEN
        RAISE EXCEPTION 'this batch was given up' USING ERRCODE = 'NT001';
    END IF;
    PERFORM notify.deposit_one(batch, id, producer, type, data, codec, 1, ttl, context, recipient, max_pending, moment);
    RETURN moment;
END $$;
