-- Piece: move delayed events, from the CTE `candidates`, to a batch row. An event that a member lost
-- may have killed it, so it is handed out alone, and no other shares its fate. Events that a forced
-- trim removed become dead letters.
suspect AS MATERIALIZED (
    SELECT min(position) AS first, min(position) FILTER (WHERE losses > 0) AS position
    FROM candidates
),
due AS MATERIALIZED (
    SELECT candidates.* FROM candidates CROSS JOIN suspect
    WHERE suspect.position IS NULL OR candidates.position < suspect.position
       OR candidates.position = suspect.first
),
gone AS (
    DELETE FROM {schema}.delayed AS waiting
    USING due WHERE waiting.group_name = %(group)s AND waiting.position = due.position
    RETURNING waiting.position
),
each AS MATERIALIZED (
    SELECT due.position, due.attempts, due.key, due.losses, due.failures,
           event.position IS NOT NULL AS kept
    FROM due LEFT JOIN {schema}.events AS event ON event.position = due.position
),
dead_lettered AS (
    INSERT INTO {schema}.dead_letters (group_name, position, key, attempts, error, failures)
    SELECT %(group)s, position, key, attempts, 'retention has removed the event', failures
    FROM each WHERE NOT kept
    ON CONFLICT (group_name, position) DO UPDATE
        SET attempts = excluded.attempts, member = excluded.member, error = excluded.error,
            failures = excluded.failures, failed_at = clock_timestamp()
),
plan AS MATERIALIZED (
    SELECT array_agg(position ORDER BY position) AS positions,
           array_agg(attempts + 1 ORDER BY position) AS attempts,
           CASE WHEN bool_or(key IS NOT NULL) THEN array_agg(key ORDER BY position) END AS keys,
           CASE WHEN bool_or(failures IS NOT NULL)
                THEN array_agg(failures ORDER BY position) END AS failures,
           coalesce(max(losses), 0) AS losses,
           NULL::bigint AS position
    FROM each WHERE kept
)
