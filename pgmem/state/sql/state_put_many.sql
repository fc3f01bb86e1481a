-- Write several entries, whether they exist or not. The keys are given in the order of their bytes,
-- and the rows are locked in that order, so that two calls cannot deadlock.
WITH entry AS (
    INSERT INTO {schema}.state AS held (key, value, version, expires_at, ttl, recording, escaped)
    SELECT key, value, 1, clock_timestamp() + make_interval(secs => %(ttl)s), %(ttl)s,
           CASE WHEN %(record)s THEN 2 ELSE 0 END, {include state_escaped}
    FROM unnest(%(keys)b::text[], %(values)b::json[]) AS given (key, value)
    {include state_overwrite}
    {include state_entry}
),
event AS (
    INSERT INTO {schema}.events
        (stream, stream_version, type, payload, agent_id, metadata, state_key, state_version,
         state_expires_at)
    SELECT 'state:' || key, version, %(type)s, value, %(agent_id)s, %(metadata)s, key, version,
           expires_at
    FROM entry WHERE recording > 0
    RETURNING *
),
-- Counted, so that every position is drawn before the notification is decided.
done AS (
    SELECT {commit} AS commit, CASE WHEN count(*) > 0 THEN {notify} END AS notified FROM event
)
SELECT key, version, updated_at, created_at, expires_at, ttl,
       (SELECT position FROM event WHERE state_key = entry.key),
       (SELECT commit FROM done), (SELECT notified FROM done)
FROM entry
