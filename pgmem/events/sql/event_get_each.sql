-- Read the events that several callers want, each at one position.
SELECT held.* FROM unnest(%(positions)b::text[]::bigint[]) AS wanted (at) CROSS JOIN LATERAL (
    SELECT {include event_columns}
    FROM {schema}.events WHERE position = wanted.at
    LIMIT 1
) AS held
