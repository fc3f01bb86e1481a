-- The tables whose dead rows exceed the threshold, that are small enough to be vacuumed before
-- autovacuum runs, and that this role may vacuum.
SELECT class.relname::text
FROM pg_catalog.pg_stat_user_tables AS stat
JOIN pg_catalog.pg_class AS class ON class.oid = stat.relid
WHERE stat.relid = ANY (ARRAY[{events}, {table state}, {table dedupe}, {table delayed}]::regclass[]::oid[])
  AND stat.n_dead_tup > %(dead)s + %(share)s * stat.n_live_tup
  AND pg_relation_size(class.oid) <= %(size)s
  AND (pg_has_role(class.relowner, 'USAGE')
       OR CASE WHEN current_setting('server_version_num')::integer >= 170000
               THEN has_table_privilege(class.oid, 'MAINTAIN') END)
ORDER BY class.relname
