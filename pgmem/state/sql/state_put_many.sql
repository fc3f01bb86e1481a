-- Write several entries, whether they exist or not. The rows are locked in the order of the keys,
-- so that two calls cannot deadlock. Events are appended in the order given.
WITH given AS MATERIALIZED (
    SELECT * FROM unnest(%(keys)b::text[], %(values)b::json[]) WITH ORDINALITY
        AS given (key, value, n)
),
entry AS (
    INSERT INTO {schema}.state AS held (key, value, version, expires_at, ttl, recording)
    SELECT key, value, 1, clock_timestamp() + make_interval(secs => %(ttl)s), %(ttl)s,
           CASE WHEN %(record)s THEN 2 ELSE 0 END
    FROM given ORDER BY key COLLATE "C"
    {include state_overwrite}
    {include state_entry}
),
event AS (
    INSERT INTO {schema}.events
        (stream, stream_version, type, payload, agent_id, metadata, state_key,
         state_version, state_expires_at)
    SELECT 'state:' || entry.key, entry.version, %(type)s, entry.value, %(agent_id)s, %(metadata)s,
           entry.key, entry.version, entry.expires_at
    FROM entry JOIN given ON given.key = entry.key
    WHERE entry.recording > 0
    ORDER BY given.n
    RETURNING state_key, position
),
-- Counted, so that every position is drawn before the notification is decided.
done AS (
    SELECT {commit} AS commit, CASE WHEN count(*) > 0 THEN {notify} END AS notified FROM event
)
SELECT entry.key, entry.version, entry.updated_at, entry.created_at, entry.expires_at, entry.ttl,
       event.position, done.commit, done.notified
FROM done CROSS JOIN entry LEFT JOIN event ON event.state_key = entry.key
