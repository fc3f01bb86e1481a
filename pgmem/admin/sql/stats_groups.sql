-- The groups that are furthest behind, with what is open in each, and the number of all of them.
SELECT reader.total, reader.name, reader.position,
       greatest(0, {include event_head} - reader.position),
       behind.since, held.open, held.overdue, again.number, dead_lettered.number
FROM (
    SELECT count(*) OVER () AS total, name, position
    FROM {schema}.groups ORDER BY position, name LIMIT %(most)s
) AS reader
LEFT JOIN LATERAL (
    {include stats_behind}
) AS behind ON true
CROSS JOIN LATERAL (
    SELECT coalesce(sum(cardinality(positions) + cardinality(prefetched)), 0)::bigint AS open,
           coalesce(sum(cardinality(positions))
               FILTER (WHERE expires_at <= clock_timestamp()), 0)::bigint AS overdue
    FROM {schema}.batches WHERE group_name = reader.name
) AS held
CROSS JOIN LATERAL (
    SELECT count(*) AS number FROM (
        SELECT FROM {schema}.delayed WHERE group_name = reader.name LIMIT %(counted)s
    ) AS found
) AS again
CROSS JOIN LATERAL (
    SELECT count(*) AS number FROM (
        SELECT FROM {schema}.dead_letters WHERE group_name = reader.name LIMIT %(counted)s
    ) AS found
) AS dead_lettered
ORDER BY reader.position, reader.name
