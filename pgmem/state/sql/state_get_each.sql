-- Read the entries of several callers. The subquery is executed for each key. A join could be planned
-- to read the whole table, because the plan does not depend on the number of keys.
SELECT held.* FROM unnest(%(keys)b::text[]) AS wanted (key) CROSS JOIN LATERAL (
    SELECT key, value::text, version, updated_at, created_at, expires_at, ttl, recording
    FROM {schema}.state WHERE state.key = wanted.key AND {include state_live}
    LIMIT 1
) AS held
