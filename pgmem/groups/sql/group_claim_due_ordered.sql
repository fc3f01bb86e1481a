-- Hand out delayed events of an ordered group whose key no member has, and with no earlier one of
-- their key that is not due.
WITH {include group_before},
{include group_current},
candidates AS MATERIALIZED (
    SELECT waiting.position, waiting.attempts, waiting.key, waiting.losses, waiting.failures
    FROM current CROSS JOIN (
        SELECT position, attempts, key, losses, failures, available_at <= clock_timestamp() AS ready,
               bool_and(available_at <= clock_timestamp())
                   OVER (PARTITION BY key ORDER BY position) AS all_ready
        FROM {schema}.delayed WHERE group_name = %(group)s
    ) AS waiting
    WHERE (waiting.key IS NULL AND waiting.ready)
       OR (waiting.all_ready AND waiting.key NOT IN (SELECT key FROM busy))
    ORDER BY waiting.position
    LIMIT %(limit)s
),
{include group_take_due},
moved AS (
    UPDATE {schema}.groups AS held
    SET updated_at = clock_timestamp()
    WHERE held.name = %(group)s AND EXISTS (SELECT FROM candidates)
),
{include group_write_batch}
({include group_front})
UNION ALL
(SELECT {include event_columns} FROM {schema}.events
 WHERE position IN (SELECT position FROM each WHERE kept) ORDER BY position)
