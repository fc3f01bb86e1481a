-- What is open in a group: held by a member, or delayed.
SELECT event.position, batch.member, coalesce(event.attempts, 1), batch.expires_at, NULL::text,
       false, batch.claimed_at
FROM {schema}.batches AS batch
CROSS JOIN LATERAL unnest(batch.positions, batch.attempts) AS event (position, attempts)
WHERE batch.group_name = %(group)s
UNION ALL
SELECT position, NULL, attempts, available_at, error, true, NULL
FROM {schema}.delayed WHERE group_name = %(group)s
ORDER BY 1
LIMIT %(limit)s
