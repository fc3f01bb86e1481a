-- Write the dedupe records of a step: those that are missing, and those of the same origin whose result
-- or expiry differs. Records of work that was done in pgmem stay as they are. Keys that are claimed now,
-- or belong to another origin, are returned. Rows are locked in the order of their keys.
WITH {include import_step},
given AS MATERIALIZED (
    SELECT given.key, given.result, given.ttl, given.owner
    FROM unnest(
        %(keys)b::text[], %(results)b::json[], %(ttls)b::float8[], %(owners)b::text[]
    ) AS given (key, result, ttl, owner)
),
known AS MATERIALIZED (
    SELECT held.key, held.token, held.owner = given.owner AS ours,
           held.completed_at IS NOT NULL AND coalesce(
               NOT starts_with(held.owner, %(prefix)s)
               OR (held.owner = given.owner
                   AND held.result::text IS NOT DISTINCT FROM given.result::text
                   AND (held.expires_at IS NULL) = (given.ttl IS NULL)
                   AND abs(coalesce(
                           extract(epoch FROM held.expires_at - clock_timestamp())::float8 - given.ttl, 0
                       )) <= greatest(2, %(slack)s * coalesce(given.ttl, 0))), true) AS same
    FROM given
    JOIN {schema}.dedupe AS held
        ON held.kind = 'work' AND held.key = given.key
           AND (held.expires_at IS NULL OR held.expires_at > clock_timestamp())
           AND (held.completed_at IS NOT NULL OR held.lease_expires_at > clock_timestamp())
),
record AS (
    INSERT INTO {schema}.dedupe AS held (kind, key, owner, completed_at, expires_at, result)
    SELECT 'work', given.key, given.owner, clock_timestamp(),
           clock_timestamp() + make_interval(secs => given.ttl), given.result
    FROM given LEFT JOIN known ON known.key = given.key
    WHERE EXISTS (SELECT FROM step) AND (known.key IS NULL OR (known.ours AND NOT known.same))
    ORDER BY given.key
    ON CONFLICT (kind, key) DO UPDATE
        SET token = nextval({dedupe_tokens}), owner = excluded.owner, lease_expires_at = NULL,
            completed_at = excluded.completed_at, created_at = clock_timestamp(),
            expires_at = excluded.expires_at, result = excluded.result
        WHERE held.expires_at <= clock_timestamp()
           OR (held.completed_at IS NULL AND held.lease_expires_at <= clock_timestamp())
           OR held.token = (SELECT known.token FROM known WHERE known.key = held.key)
    RETURNING key
)
SELECT step.step, found.token, found.step, (SELECT count(*) FROM record),
       ARRAY(
           SELECT key FROM given
           WHERE NOT EXISTS (SELECT FROM record WHERE record.key = given.key)
             AND NOT EXISTS (SELECT FROM known WHERE known.key = given.key AND known.same)
           ORDER BY key
       ),
       {commit}
FROM (VALUES (true)) AS always LEFT JOIN step ON true LEFT JOIN found ON true
