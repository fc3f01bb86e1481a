-- Read the newest events of each stream between two positions, and how many there are in each.
SELECT {include event_columns}, streamed.events
FROM (
    SELECT *, count(*) OVER (PARTITION BY stream) AS events,
           row_number() OVER (PARTITION BY stream ORDER BY position DESC) AS place
    FROM {schema}.events
    WHERE position > %(after)s AND position <= %(until)s AND state_key IS NULL {filter}
) AS streamed
WHERE place <= %(limit)s
ORDER BY position DESC
