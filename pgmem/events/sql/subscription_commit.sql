-- Store a position, unless a higher one is stored, and extend the lease. The token decides, not the clock: a
-- lease that ran out is still held until another process takes over. After a promotion, the owner
-- gives the new timeline once it has checked that what it read is there, and the row is stamped.
WITH present AS MATERIALIZED (
{include history}
),
moved AS (
    UPDATE {schema}.subscriptions
    SET position = greatest(position, %(position)s), updated_at = clock_timestamp(),
        expires_at = CASE WHEN expires_at IS NOT NULL
                      THEN clock_timestamp() + make_interval(secs => %(lease)s) END,
        timeline = %(timeline)s
    WHERE name = %(name)s AND token = %(token)s
      AND system_identifier = %(system_identifier)s
      AND (timeline = %(timeline)s OR %(stamp)s AND timeline < %(timeline)s)
      AND EXISTS (
          SELECT FROM present
          WHERE system_identifier = %(system_identifier)s AND timeline = %(timeline)s
      )
    RETURNING token
)
SELECT moved.token, current.token, current.position, current.owner, current.expires_at,
       current.system_identifier, current.timeline,
       present.system_identifier, present.timeline, {commit}
FROM present
LEFT JOIN moved ON true
LEFT JOIN {schema}.subscriptions AS current ON current.name = %(name)s
