-- Take a subscription if it is new, if no lease on it runs, or if this very call holds it
-- already (sent again after a lost connection). While another lease runs, the statement waits
-- for nothing, locks nothing and draws no token. If the lease has run out and the last owner's
-- transaction is open, the UPDATE waits for that transaction and then sees the new position. A
-- position of an earlier timeline of this cluster was replicated together with the events, so it
-- is stamped with the present one.
WITH present AS MATERIALIZED (
{include history}
),
found AS MATERIALIZED (
    SELECT filter::text AS filter, filter::jsonb = %(selection)s::jsonb AS same, position,
           system_identifier, timeline, owner,
           extract(epoch FROM expires_at - clock_timestamp())::float8 AS remaining
    FROM {schema}.subscriptions WHERE name = %(name)s
),
taken AS (
    UPDATE {schema}.subscriptions AS held
    SET token = nextval({subscription_tokens}), owner = %(owner)s,
        expires_at = clock_timestamp() + make_interval(secs => %(lease)s),
        timeline = present.timeline
    FROM present
    WHERE held.name = %(name)s
      AND (held.expires_at IS NULL OR held.expires_at <= clock_timestamp()
           OR held.owner = %(owner)s)
      AND held.filter::jsonb = %(selection)s::jsonb
      AND held.system_identifier = present.system_identifier
      AND (held.timeline = present.timeline OR %(stamp)s AND held.timeline < present.timeline)
    RETURNING held.token, held.position, held.created_at, held.system_identifier, held.timeline
),
added AS (
    INSERT INTO {schema}.subscriptions
        (name, filter, position, owner, expires_at, system_identifier, timeline)
    SELECT %(name)s, %(selection)s::json, %(start)s, %(owner)s,
           clock_timestamp() + make_interval(secs => %(lease)s), system_identifier, timeline
    FROM present WHERE NOT EXISTS (SELECT FROM found)
    ON CONFLICT (name) DO NOTHING
    RETURNING token, position, created_at, system_identifier, timeline
)
SELECT mine.token, mine.position, mine.created_at, mine.system_identifier, mine.timeline,
       found.same, found.filter, found.position, found.system_identifier, found.timeline,
       found.owner, found.remaining, present.system_identifier, present.timeline, {commit}
FROM present
LEFT JOIN (SELECT * FROM taken UNION ALL SELECT * FROM added) AS mine ON true
LEFT JOIN found ON mine.token IS NULL
