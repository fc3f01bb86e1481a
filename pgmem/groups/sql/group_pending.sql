-- What is open in a group: held by a member, or parked.
SELECT event.position, slots.consumer, coalesce(event.attempts, 1), slots.lease_until, NULL::text,
       false, slots.handed_at
FROM {schema}.deliveries AS slots
CROSS JOIN LATERAL unnest(slots.positions, slots.attempts) AS event (position, attempts)
WHERE slots.group_name = %(group)s
UNION ALL
SELECT position, NULL, attempts, available_at, error, true, NULL
FROM {schema}.parked WHERE group_name = %(group)s
ORDER BY 1
LIMIT %(limit)s
