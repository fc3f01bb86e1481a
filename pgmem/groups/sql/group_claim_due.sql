-- Hand out events again that were given back and are due.
WITH {include group_before},
{include group_alone},
candidates AS MATERIALIZED (
    SELECT waiting.position, waiting.attempts, waiting.key, waiting.losses, waiting.failures
    FROM {schema}.delayed AS waiting
    WHERE waiting.group_name = %(group)s AND waiting.available_at <= clock_timestamp()
      AND EXISTS (SELECT FROM before WHERE before.ready) AND EXISTS (SELECT FROM locked)
    ORDER BY waiting.position
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
),
touched AS (
    UPDATE {schema}.groups AS held SET updated_at = clock_timestamp()
    WHERE held.name = %(group)s AND EXISTS (SELECT FROM candidates)
),
{include group_take_due},
{include group_write_batch}
({include group_front})
UNION ALL
(SELECT {include event_columns} FROM {schema}.events
 WHERE position IN (SELECT position FROM each WHERE kept) ORDER BY position)
