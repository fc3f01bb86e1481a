-- Store the receipt of this transaction in its dedupe record: the highest position of its events,
-- and the versions of the entries that it wrote. Rows that this transaction wrote have its id.
UPDATE {schema}.dedupe SET result = json_build_object(
    'position', (
        SELECT max(position) FROM (
            SELECT (
                SELECT position FROM {schema}.events
                WHERE stream = name AND xmin = pg_catalog.pg_current_xact_id()::xid
                ORDER BY position DESC LIMIT 1
            )
            FROM unnest(%(streams)s::text[]) AS name
            UNION ALL
            SELECT (
                SELECT position FROM {schema}.events
                WHERE state_key = state.key AND state_version > state.version - %(writes)s::bigint
                  AND xmin = pg_catalog.pg_current_xact_id()::xid
                ORDER BY state_version DESC LIMIT 1
            )
            FROM {schema}.state WHERE key = ANY (%(keys)s::text[])
        ) AS written (position)
    ),
    'versions', coalesce((
        SELECT json_object_agg(wanted, coalesce((
            SELECT version FROM {schema}.state WHERE key = wanted AND value IS NOT NULL
        ), 0))
        FROM unnest(%(keys)s::text[]) AS wanted
    ), '{{}}')
)
WHERE kind = 'optimistic' AND key = %(key)s AND xmin = pg_catalog.pg_current_xact_id()::xid
