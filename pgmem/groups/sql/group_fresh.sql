-- Piece: the next events behind the group's position, and the move of that position. A claim that
-- waited for the group's row sees the newest position in it. The events up to `until` were visible
-- before the statement began, so its old snapshot does no harm. If there is no event, nothing is
-- locked or written.
locked AS MATERIALIZED (
    SELECT held.position
    FROM {schema}.groups AS held
    WHERE held.name = %(group)s AND held.revision = %(revision)s AND {acked} AND EXISTS (
        SELECT FROM before
        WHERE before.ready AND before.trimmed IS NULL AND {first}
          AND NOT before.full AND before.position < %(until)s
          AND (before.position + %(skip)s <= %(until)s OR EXISTS (
              SELECT FROM {schema}.events
              WHERE position > before.position AND position <= %(until)s {filter}))
    )
    FOR NO KEY UPDATE
),
batch AS MATERIALIZED (
    SELECT found.*
    FROM locked CROSS JOIN LATERAL (
        SELECT * FROM {schema}.events
        WHERE position > locked.position AND position <= %(until)s {filter}
        ORDER BY position LIMIT %(limit)s
    ) AS found
),
plan AS MATERIALIZED (
    SELECT locked.position AS start,
           CASE WHEN count(batch.position) = %(limit)s THEN max(batch.position)
                ELSE greatest(%(until)s, locked.position) END AS position,
           array_agg(batch.position ORDER BY batch.position)
               FILTER (WHERE batch.position IS NOT NULL) AS positions,
           NULL::integer[] AS attempts, NULL::text[] AS keys,
           0 AS losses, NULL::jsonb[] AS failures
    FROM locked LEFT JOIN batch ON true
    GROUP BY locked.position
),
moved AS (
    UPDATE {schema}.groups AS held
    SET position = plan.position, updated_at = clock_timestamp()
    FROM plan
    WHERE held.name = %(group)s
      AND (plan.positions IS NOT NULL OR plan.position >= plan.start + %(skip)s)
)
