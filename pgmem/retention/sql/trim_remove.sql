-- Remove events and record the trim, in a transaction after `trim_allow`. Protected events are found
-- again by this statement's own snapshot.
-- The trim has no time yet ('infinity'): readers that began before the commit must be told, and only
-- after the commit a time is known that is later than all of those (`trim_times`).
WITH open AS MATERIALIZED (
{include trim_open}
),
slowest AS MATERIALIZED (
{include trim_slowest}
),
removed AS (
    DELETE FROM {schema}.events AS event
    WHERE position = ANY (%(positions)s)
      AND (%(force)s OR position <= coalesce((SELECT position FROM slowest), position))
      AND NOT {include trim_kept}
    RETURNING position
),
total AS MATERIALIZED (
    SELECT count(*) AS number, min(position) AS first, max(position) AS last FROM removed
),
low_water AS (
    INSERT INTO {schema}.trimmed AS held (stream, position, trimmed_at, removed)
    SELECT %(stream)s, last, 'infinity', number FROM total WHERE number > 0
    ON CONFLICT (stream) DO UPDATE
        SET position = greatest(held.position, excluded.position),
            trimmed_at = excluded.trimmed_at, removed = held.removed + excluded.removed
    RETURNING position
)
SELECT total.number, total.first, total.last, before.position, before.removed
FROM total LEFT JOIN {schema}.trimmed AS before ON before.stream = %(stream)s
