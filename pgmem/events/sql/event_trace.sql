-- Read the first known cause of an event, and what follows from it, nearest first up to a limit.
-- The last column is the cause; it is NULL for the first one. `cause` is text that a writer chose.
WITH RECURSIVE causes AS (
    SELECT position, metadata ->> 'cause' AS cause
    FROM {schema}.events WHERE position = %(position)s
    UNION ALL
    SELECT held.position, held.metadata ->> 'cause'
    FROM causes JOIN {schema}.events AS held
        ON held.position = CASE
            WHEN causes.cause ~ '^[0-9]+$' AND length(causes.cause) < 19
            THEN causes.cause::bigint END
           AND held.position < causes.position
),
effects AS (
    SELECT min(position) AS position, NULL::bigint AS cause
    FROM (SELECT position FROM causes LIMIT %(limit)s) AS bounded
    UNION ALL
    SELECT held.position, effects.position
    FROM effects JOIN {schema}.events AS held
        ON (held.metadata ->> 'cause') COLLATE "C" = effects.position::text COLLATE "C"
           AND held.position > effects.position
),
bounded AS (SELECT position AS at, cause FROM effects LIMIT %(limit)s)
SELECT {include event_columns}, bounded.cause
FROM bounded JOIN {schema}.events ON position = bounded.at ORDER BY position
