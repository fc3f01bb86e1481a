-- The revision of the schema, the server's version and the session's pid, which differs from the
-- client's idea of it behind a pooler. Versions of pgmem before the first release had no table
-- `epochs`, and revisions of the same names. Then the schemas that the search_path puts in
-- front of pg_catalog, and in which another role may create operators. Last, the tables with
-- row-level security.
SELECT version_num, current_setting('server_version_num')::int, pg_backend_pid(),
       to_regclass({table epochs}) IS NULL,
       ARRAY(
           SELECT space.nspname::text
           FROM unnest(current_schemas(true)) WITH ORDINALITY AS searched (name, place)
           JOIN pg_catalog.pg_namespace AS space ON space.nspname = searched.name
           JOIN pg_catalog.pg_roles AS owner ON owner.oid = space.nspowner
           WHERE searched.place < array_position(current_schemas(true), 'pg_catalog'::name)
             AND space.oid <> pg_my_temp_schema()
             AND (NOT (owner.rolsuper OR owner.rolname IN (current_user, 'pg_database_owner'))
                  OR EXISTS (
                      SELECT FROM aclexplode(space.nspacl) AS granted
                      WHERE granted.privilege_type = 'CREATE' AND granted.grantee <> owner.oid
                  ))
           ORDER BY searched.place
       ),
       ARRAY(
           SELECT secured.relname::text FROM pg_catalog.pg_class AS secured
           JOIN pg_catalog.pg_class AS version ON version.relnamespace = secured.relnamespace
           WHERE version.oid = to_regclass({table pgmem_version})::oid AND secured.relrowsecurity
           ORDER BY secured.relname
       )
FROM {schema}.pgmem_version
