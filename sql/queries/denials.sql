-- name: read_denials
-- The whole deny list, which every node holds in memory. Primary key.
SELECT d.kind, d.value FROM notify.denial AS d ORDER BY d.kind, d.value

-- name: list_denials
-- A page of the deny list after an entry. Primary key.
SELECT d.kind, d.value, d.actor, d.at FROM notify.denial AS d WHERE (d.kind, d.value) > ($1, $2) ORDER BY d.kind, d.value LIMIT $3

-- name: deny
-- Puts a subject or a `jti` on the deny list; false when it is full. See the function.
SELECT notify.deny($1, $2, $3, $4)

-- name: allow
-- Takes one off the deny list; false when it was not on it. See the function.
SELECT notify.allow($1, $2, $3)
