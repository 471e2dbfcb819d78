-- Web Push: which browsers want to hear of what arrives while their user is not connected, and how far each was told.

-- A browser that subscribed. Filed under a hash of its endpoint, which may be too long for an index: an endpoint belongs to one
-- user at a time, whoever signed in at that browser last.
--
--     quiet ──(its user is away, and something is pending)──▶ claimed ──▶ pushed (quiet again), gone (no row any more)
--       ▲                                                      │   ▲
--       └────────────── the user came, or has it all ──────────┘   └── waiting (failed) ; or whoever claimed it died
CREATE TABLE notify.push_subscription (
    digest bytea PRIMARY KEY,
    user_id text COLLATE "C" NOT NULL,
    endpoint text NOT NULL,
    p256dh bytea NOT NULL,
    auth bytea NOT NULL,
    expires_at timestamptz,               -- when the browser said that it ends, if it did
    seen_at timestamptz NOT NULL,         -- when the browser last subscribed
    pushed_to bigint NOT NULL,            -- everything up to this seq was pushed, or needs no push
    attempts integer NOT NULL DEFAULT 0,  -- since the last one that went through
    next_at timestamptz                   -- claimed, or waiting after a failure: nobody pushes before this
) WITH (fillfactor = 70);
CREATE INDEX push_owner ON notify.push_subscription (user_id);
CREATE INDEX push_due ON notify.push_subscription (next_at) WHERE next_at IS NOT NULL;

-- The key that the service identifies itself with, unless the operator has one; and which node pushes.
CREATE TABLE notify.push_state (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    private_key bytea,
    pusher uuid,
    pushes_until timestamptz NOT NULL DEFAULT '-infinity'
) WITH (fillfactor = 50);
INSERT INTO notify.push_state DEFAULT VALUES;

-- Whether a user has no open session on any node, and would be let in to open one. session_owner, primary key.
CREATE FUNCTION notify.is_away(owner text) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT NOT EXISTS (SELECT FROM notify.session AS s WHERE s.user_id = owner)
       AND NOT EXISTS (SELECT FROM notify.denial AS d WHERE d.kind = 'sub' AND d.value = owner)
$$;
