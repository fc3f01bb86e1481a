-- Piece: the role of `session` may insert events. It may by its own rights, as a role that it can
-- become, or by a function, trigger, view or rule with the rights of another role. pgmem's own
-- functions insert no event. A session that counts without need delays readers. One that is missing
-- loses them an event, so a doubtful one counts.
(has_any_column_privilege(session.usesysid, {events}::regclass::oid, 'INSERT')
 OR EXISTS (
     SELECT FROM pg_catalog.pg_roles AS other
     WHERE has_any_column_privilege(other.oid, {events}::regclass::oid, 'INSERT')
       AND (pg_has_role(session.usesysid, other.oid, 'MEMBER')
            OR EXISTS (
                SELECT FROM pg_catalog.pg_proc AS definer
                WHERE definer.prosecdef AND definer.proowner = other.oid
                  AND definer.pronamespace <> (
                      SELECT relnamespace FROM pg_catalog.pg_class
                      WHERE oid = {events}::regclass::oid
                  )
                  AND (definer.prorettype = 'trigger'::regtype::oid
                       OR has_function_privilege(session.usesysid, definer.oid, 'EXECUTE'))
            ))
 )
 OR EXISTS (
     SELECT FROM pg_catalog.pg_depend
     WHERE refclassid = 'pg_class'::regclass::oid AND refobjid = {events}::regclass::oid
       AND classid = 'pg_rewrite'::regclass::oid
 ))
