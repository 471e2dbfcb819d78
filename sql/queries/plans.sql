-- name: measure_tables
-- How large each of our tables is now, in pages, whatever statistics say; one that is being dropped has no size any more. Waits
-- for no migration that holds one. pg_class_relname_nsp_index; a look at each file.
WITH bound AS MATERIALIZED (SELECT set_config('lock_timeout', '250ms', true))
SELECT c.oid AS id, COALESCE(pg_relation_size(c.oid) / current_setting('block_size')::bigint, 0) AS pages
FROM bound AS b CROSS JOIN pg_class AS c WHERE c.relnamespace = 'notify'::regnamespace AND c.relkind = 'r'

-- name: drop_plans
-- Has this connection make its plans anew, those within functions included, each when it is needed next.
DISCARD PLANS
