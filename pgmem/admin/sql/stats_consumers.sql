-- The consumers that are furthest behind, and how many there are.
SELECT reader.total, reader.name, reader.position,
       greatest(0, {include event_head} - reader.position),
       behind.since, reader.owner, reader.lease_until
FROM (
    SELECT count(*) OVER () AS total, name, position, owner, lease_until
    FROM {schema}.consumers ORDER BY position, name LIMIT %(most)s
) AS reader
LEFT JOIN LATERAL (
    {include stats_behind}
) AS behind ON true
ORDER BY reader.position, reader.name
