-- The dead letters of a group, with their events, in the order of the log.
SELECT {include event_columns}, letter.attempts, letter.member, letter.error, letter.failed_at,
       letter.failures, letter.dead_position
FROM (
    SELECT position AS dead_position, attempts, member, error, failed_at,
           failures::text AS failures
    FROM {schema}.dead_letters
    WHERE group_name = %(group)s AND position > %(after)s
    ORDER BY position LIMIT %(limit)s
) AS letter
LEFT JOIN {schema}.events ON events.position = letter.dead_position
ORDER BY letter.dead_position
