-- name: keep_push_key
-- Stores a private key unless there is one, and answers with the one there is. The one row.
UPDATE notify.push_state AS s SET private_key = COALESCE(s.private_key, $1) RETURNING s.private_key

-- name: read_push_key
-- The private key that was minted, NULL when none was. The one row.
SELECT s.private_key FROM notify.push_state AS s

-- name: put_push_subscription
-- A browser subscribes, anew or again; a user's longest unseen subscriptions beyond so many go. Another user of that browser gets
-- nothing of what was for the one before, and nothing that came before the subscription. Primary key, push_owner.
WITH put AS (
    INSERT INTO notify.push_subscription AS s (digest, user_id, endpoint, p256dh, auth, expires_at, seen_at, pushed_to)
    SELECT $1, $2, $3, $4, $5, to_timestamp($6::float8), clock_timestamp(),
           COALESCE((SELECT m.head FROM notify.mailbox AS m WHERE m.user_id = $2), 0)
    ON CONFLICT (digest) DO UPDATE
    SET user_id = excluded.user_id, p256dh = excluded.p256dh, auth = excluded.auth, expires_at = excluded.expires_at,
        seen_at = excluded.seen_at,
        pushed_to = CASE WHEN s.user_id = excluded.user_id THEN s.pushed_to ELSE excluded.pushed_to END,
        attempts = CASE WHEN s.user_id = excluded.user_id THEN s.attempts ELSE 0 END,
        next_at = CASE WHEN s.user_id = excluded.user_id THEN s.next_at END
), dropped AS (
    DELETE FROM notify.push_subscription AS s WHERE s.digest IN (
        SELECT o.digest FROM notify.push_subscription AS o WHERE o.user_id = $2 AND o.digest <> $1
        ORDER BY o.seen_at DESC, o.digest OFFSET $7::integer - 1
    ) RETURNING 1
)
SELECT count(*) FROM dropped

-- name: remove_push_subscription
-- Takes a subscription of a user away. Primary key.
DELETE FROM notify.push_subscription AS s WHERE s.digest = $1 AND s.user_id = $2

-- name: count_push_subscriptions
-- How many browsers of a user are subscribed. push_owner.
SELECT count(*) FROM notify.push_subscription AS s WHERE s.user_id = $1

-- name: lease_pushing
-- Takes or renews the lease on pushing, if anybody is subscribed at all; answers with whether this node has it. The one row.
UPDATE notify.push_state AS s SET pusher = $1, pushes_until = clock_timestamp() + make_interval(secs => $2)
WHERE (s.pusher = $1 OR s.pushes_until < clock_timestamp()) AND EXISTS (SELECT FROM notify.push_subscription)
RETURNING true

-- name: leave_pushing
-- Gives the lease back. The one row.
UPDATE notify.push_state AS s SET pushes_until = '-infinity' WHERE s.pusher = $1

-- name: list_subscribed
-- Who of some users has subscribed a browser. push_owner alone, without its table.
SELECT u.user_id FROM unnest($1::text[]) AS u (user_id)
WHERE EXISTS (SELECT FROM notify.push_subscription AS s WHERE s.user_id = u.user_id OFFSET 0)

-- name: claim_pushes
-- Claims what is to be pushed to some users ($1), up to so many subscriptions ($2) and so many of one user ($3): for each of a user
-- who is away, the oldest notification that is not over, that no device acknowledged and that was not pushed yet, of the latest
-- $4 entries. Nobody else gets a claimed subscription before $5 seconds have passed. One for which there is nothing is done with up to the head, and
-- answered without a seq; so is one that waited and whose user came, which is left to its session and then to the walk. All of it
-- decided in one statement, so that the head and the entries up to it are of the same moment.
-- push_owner, session_owner, primary keys.
WITH ready AS MATERIALIZED (
    SELECT p.* FROM unnest($1::text[]) AS u (user_id)
    CROSS JOIN LATERAL (
        SELECT s.digest, s.user_id, m.head, notify.is_away(s.user_id) AS away,
               GREATEST(s.pushed_to, notify.acknowledged_to(s.user_id), m.head - $4::bigint) AS base
        FROM notify.push_subscription AS s JOIN notify.mailbox AS m ON m.user_id = s.user_id
        WHERE s.user_id = u.user_id
          AND (s.expires_at IS NULL OR s.expires_at > clock_timestamp())
          AND CASE WHEN s.next_at IS NULL THEN s.pushed_to < m.head AND notify.is_away(s.user_id)
                   ELSE s.next_at <= clock_timestamp() END
        LIMIT $3
        FOR UPDATE OF s SKIP LOCKED
    ) AS p
    LIMIT $2
), found AS MATERIALIZED (
    SELECT r.digest, r.head, r.away, p.*
    FROM ready AS r LEFT JOIN LATERAL (
        SELECT e.seq, e.kind, e.notification_id, e.at, e.target, e.seqs, e.unread, n.type, n.producer, n.context, n.codec,
               n.created_at, n.data, n.collapse_key, EXTRACT(epoch FROM n.expires_at - clock_timestamp())::float8 AS seconds
        FROM notify.entry AS e JOIN notify.notification AS n ON n.id = e.notification_id AND n.expires_at > clock_timestamp()
        WHERE r.away AND e.user_id = r.user_id AND e.seq > r.base AND e.kind = 1
          AND NOT EXISTS (SELECT FROM notify.ending AS x WHERE x.user_id = e.user_id AND x.seq = e.seq OFFSET 0)
        ORDER BY e.seq LIMIT 1
    ) AS p ON true
)
UPDATE notify.push_subscription AS s
SET pushed_to = CASE WHEN f.away THEN GREATEST(s.pushed_to, COALESCE(f.seq - 1, f.head)) ELSE s.pushed_to END,
    next_at = CASE WHEN f.seq IS NOT NULL THEN clock_timestamp() + make_interval(secs => $5) END
FROM found AS f
WHERE s.digest = f.digest
RETURNING s.digest, s.user_id, s.endpoint, s.p256dh, s.auth, s.attempts, f.seq, f.kind, true AS live, f.notification_id, f.at,
          f.target, f.seqs, f.unread, f.type, f.producer, f.context, f.codec, f.created_at, f.data, f.collapse_key, f.seconds

-- name: settle_push
-- A push is done with: up to its seq nothing is left to be pushed. Primary key.
UPDATE notify.push_subscription AS s SET pushed_to = GREATEST(s.pushed_to, $3), attempts = 0, next_at = NULL
WHERE s.digest = $1 AND s.user_id = $2

-- name: delay_push
-- A push failed: nobody tries this subscription again for so many seconds. Primary key.
UPDATE notify.push_subscription AS s
SET attempts = s.attempts + 1, next_at = clock_timestamp() + make_interval(secs => $3)
WHERE s.digest = $1 AND s.user_id = $2

-- name: list_pushes_due
-- Whose subscriptions have waited for long enough, or were claimed by a node that died. push_due.
SELECT s.user_id FROM notify.push_subscription AS s WHERE s.next_at <= now() ORDER BY s.next_at LIMIT $1

-- name: walk_push_subscriptions
-- The next subscriptions of the walk: where it ends, and whose mailboxes are ahead of what was pushed. Those whose time is over
-- go. Primary keys.
WITH page AS MATERIALIZED (
    SELECT s.digest, s.user_id, s.pushed_to, s.expires_at FROM notify.push_subscription AS s
    WHERE s.digest > $1 ORDER BY s.digest LIMIT $2
), gone AS (
    DELETE FROM notify.push_subscription AS s USING page AS p WHERE s.digest = p.digest AND p.expires_at < now() AND s.expires_at < now()
)
SELECT (SELECT p.digest FROM page AS p ORDER BY p.digest DESC LIMIT 1) AS digest,
       ARRAY(SELECT DISTINCT p.user_id FROM page AS p JOIN notify.mailbox AS m ON m.user_id = p.user_id WHERE m.head > p.pushed_to) AS users
