-- Write the entries of a step: those that are missing, and those of the same origin whose value or
-- expiry differs. Other entries stay, and their keys are returned unless they are equal. Equal ones may
-- be adopted. Rows are locked in the order of their keys.
WITH {include import_step},
given AS MATERIALIZED (
    SELECT given.key, given.value, given.ttl, given.origin
    FROM unnest(
        %(keys)b::text[], %(values)b::json[], %(ttls)b::float8[], %(origins)b::json[]
    ) AS given (key, value, ttl, origin)
),
known AS MATERIALIZED (
    SELECT held.key, held.version, event.position IS NOT NULL AS ours,
           held.value::text = given.value::text
           AND (held.expires_at IS NULL) = (given.ttl IS NULL)
           AND abs(coalesce(
                   extract(epoch FROM held.expires_at - clock_timestamp())::float8 - given.ttl, 0
               )) <= greatest(2, %(slack)s * coalesce(given.ttl, 0)) AS same
    FROM given
    JOIN {schema}.state AS held
        ON held.key = given.key AND held.value IS NOT NULL
           AND (held.expires_at IS NULL OR held.expires_at > clock_timestamp())
    LEFT JOIN {schema}.events AS event
        ON event.state_key = held.key AND event.state_version = held.version
           AND event.type = %(type)s AND event.metadata::text = given.origin::text
),
entry AS (
    INSERT INTO {schema}.state AS held (key, value, version, expires_at, ttl, recording, escaped)
    SELECT given.key, given.value, 1, clock_timestamp() + make_interval(secs => given.ttl),
           given.ttl, 2, strpos(given.value::text COLLATE "C", chr(92)) > 0
    FROM given LEFT JOIN known ON known.key = given.key
    WHERE EXISTS (SELECT FROM step)
      AND (known.key IS NULL OR (known.ours AND NOT known.same)
           OR (%(adopt)s AND known.same AND NOT known.ours))
    ORDER BY given.key
    ON CONFLICT (key) DO UPDATE
        SET value = excluded.value, version = held.version + 1, updated_at = clock_timestamp(),
            created_at = {include state_created}, expires_at = excluded.expires_at,
            ttl = excluded.ttl, recording = 2, escaped = excluded.escaped
        WHERE held.value IS NULL OR held.expires_at <= clock_timestamp()
           OR held.version = (SELECT known.version FROM known WHERE known.key = held.key)
    RETURNING key, value, version, expires_at
),
event AS (
    INSERT INTO {schema}.events
        (stream, stream_version, type, payload, metadata,
         state_key, state_version, state_expires_at)
    SELECT 'state:' || entry.key, entry.version, %(type)s, entry.value, given.origin,
           entry.key, entry.version, entry.expires_at
    FROM entry JOIN given ON given.key = entry.key
    ORDER BY entry.key
    RETURNING position
),
done AS (SELECT count(*) AS written FROM event)
SELECT step.step, found.token, found.step, done.written,
       ARRAY(
           SELECT key FROM given
           WHERE NOT EXISTS (SELECT FROM entry WHERE entry.key = given.key)
             AND NOT EXISTS (SELECT FROM known WHERE known.key = given.key AND known.same)
           ORDER BY key
       ),
       {commit}, CASE WHEN done.written > 0 THEN {notify} END
FROM done LEFT JOIN step ON true LEFT JOIN found ON true
