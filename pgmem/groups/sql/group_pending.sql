-- What is open in a group: held by a member, or delayed.
SELECT event.position, slots.member, coalesce(event.attempts, 1), slots.expires_at, NULL::text,
       false, slots.claimed_at
FROM {schema}.batches AS slots
CROSS JOIN LATERAL unnest(slots.positions, slots.attempts) AS event (position, attempts)
WHERE slots.group_name = %(group)s
UNION ALL
SELECT position, NULL, attempts, available_at, error, true, NULL
FROM {schema}.delayed WHERE group_name = %(group)s
ORDER BY 1
LIMIT %(limit)s
