-- Extend the lease. The statement does not wait for the row, because the owner's own transaction
-- may have it locked, with a position that is not committed yet. A released lease stays
-- released.
WITH present AS MATERIALIZED (
{include history}
),
ours AS MATERIALIZED (
    SELECT name FROM {schema}.subscriptions
    WHERE name = %(name)s AND token = %(token)s AND expires_at IS NOT NULL
      AND system_identifier = %(system_identifier)s
      AND (timeline = %(timeline)s OR %(stamp)s AND timeline < %(timeline)s)
      AND EXISTS (
          SELECT FROM present
          WHERE system_identifier = %(system_identifier)s AND timeline = %(timeline)s
      )
    FOR NO KEY UPDATE SKIP LOCKED
),
renewed AS (
    UPDATE {schema}.subscriptions
    SET expires_at = clock_timestamp() + make_interval(secs => %(lease)s), timeline = %(timeline)s
    WHERE name = (SELECT name FROM ours)
    RETURNING token
)
SELECT renewed.token, current.token, current.position, current.owner, current.expires_at,
       current.system_identifier, current.timeline,
       present.system_identifier, present.timeline, {commit}
FROM present
LEFT JOIN renewed ON true
LEFT JOIN {schema}.subscriptions AS current ON current.name = %(name)s
