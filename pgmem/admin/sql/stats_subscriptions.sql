-- The durable subscriptions that are furthest behind, and the number of all of them.
SELECT reader.total, reader.name, reader.position,
       greatest(0, {include event_head} - reader.position),
       behind.since,
       CASE WHEN reader.expires_at > clock_timestamp() THEN reader.owner END,
       CASE WHEN reader.expires_at > clock_timestamp() THEN reader.expires_at END
FROM (
    SELECT count(*) OVER () AS total, name, position, owner, expires_at
    FROM {schema}.subscriptions ORDER BY position, name LIMIT %(most)s
) AS reader
LEFT JOIN LATERAL (
    {include stats_behind}
) AS behind ON true
ORDER BY reader.position, reader.name
