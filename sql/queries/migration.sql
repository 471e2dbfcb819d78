-- name: find_migration_table
-- Whether the schema and its table of migrations exist. The catalogs' own unique indexes.
SELECT to_regnamespace('notify') IS NOT NULL AS has_schema, to_regclass('notify.migration') IS NOT NULL AS has_table

-- name: create_schema
-- The first thing a new database gets; asked for only when it is missing, since it takes a right most roles lack.
CREATE SCHEMA IF NOT EXISTS notify

-- name: create_migration_table
-- What has been applied. It stands outside the numbered migrations because it has to be there before the first of them.
CREATE TABLE IF NOT EXISTS notify.migration (
    number integer PRIMARY KEY CHECK (number > 0),
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)

-- name: bound_migration
-- Sets how long this transaction waits for a lock and how long one of its statements runs; both as '5s'.
SELECT set_config('lock_timeout', $1, true), set_config('statement_timeout', $2, true)

-- name: lock_migrations
-- One migrator at a time in this database; gives way with the transaction, whatever becomes of us. No table is read.
SELECT pg_advisory_xact_lock($1)

-- name: fetch_migrations
-- Everything applied so far, a handful of rows: a sequential scan, by number.
SELECT number, name, checksum FROM notify.migration ORDER BY number

-- name: record_migration
-- Goes with the migration in one transaction, so that neither is there without the other. migration_pkey (number).
INSERT INTO notify.migration (number, name, checksum) VALUES ($1, $2, $3)

-- name: renew_salt
-- Makes this database another one to every client: for a restored snapshot, which PostgreSQL can't tell from the original.
UPDATE notify.salt SET value = gen_random_uuid()::text
