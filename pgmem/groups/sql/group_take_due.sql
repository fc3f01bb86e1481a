-- Piece: move the delayed events in the CTE `due` to a batch row. Those that a forced trim removed
-- become dead letters.
gone AS (
    DELETE FROM {schema}.delayed AS waiting
    USING due WHERE waiting.group_name = %(group)s AND waiting.position = due.position
    RETURNING waiting.position
),
each AS MATERIALIZED (
    SELECT due.position, due.attempts, due.key, event.position IS NOT NULL AS kept
    FROM due LEFT JOIN {schema}.events AS event ON event.position = due.position
),
dead_lettered AS (
    INSERT INTO {schema}.dead_letters (group_name, position, key, attempts, error)
    SELECT %(group)s, position, key, attempts, 'retention has removed the event'
    FROM each WHERE NOT kept
    ON CONFLICT (group_name, position) DO UPDATE
        SET attempts = excluded.attempts, error = excluded.error, failed_at = clock_timestamp()
),
plan AS MATERIALIZED (
    SELECT array_agg(position ORDER BY position) AS positions,
           array_agg(attempts + 1 ORDER BY position) AS attempts,
           CASE WHEN bool_or(key IS NOT NULL) THEN array_agg(key ORDER BY position) END AS keys,
           NULL::bigint AS position
    FROM each WHERE kept
)
