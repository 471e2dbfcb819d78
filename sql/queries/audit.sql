-- name: list_audit
-- What admins did, the newest first, from before an act. Primary key, walked backwards.
SELECT a.id, a.at, a.actor, a.action, a.target, a.affected, a.detail FROM notify.audit AS a
WHERE a.id < $1 AND ($2::text IS NULL OR a.target = $2) ORDER BY a.id DESC LIMIT $3

-- name: retain_audit
-- Deletes what was done over a year ago. audit_age.
WITH gone AS (
    DELETE FROM notify.audit AS a WHERE a.id IN (
        SELECT o.id FROM notify.audit AS o WHERE o.at < now() - interval '366 days' ORDER BY o.at LIMIT $1
    ) RETURNING 1
)
SELECT count(*) FROM gone
