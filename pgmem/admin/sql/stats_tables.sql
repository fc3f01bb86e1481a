-- The tables of the schema: their pages and bytes, and what vacuum has still to do.
SELECT class.relname, pg_relation_size(class.oid) / current_setting('block_size')::bigint,
       pg_table_size(class.oid), pg_indexes_size(class.oid),
       coalesce(stats.n_dead_tup, 0), stats.last_autovacuum
FROM pg_catalog.pg_class AS class
LEFT JOIN pg_catalog.pg_stat_all_tables AS stats ON stats.relid = class.oid
WHERE class.relkind = 'r' AND class.relnamespace = (
    SELECT relnamespace FROM pg_catalog.pg_class WHERE oid = {events}::regclass::oid
)
ORDER BY class.relname
