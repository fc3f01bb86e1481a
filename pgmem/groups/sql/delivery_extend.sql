-- Hold events for another lease: all that was handed out together with them.
WITH {include delivery_held},
extended AS (
    UPDATE {schema}.deliveries AS slots
    SET lease_until = clock_timestamp() + make_interval(secs => %(lease)s)
    FROM held, judged
    WHERE judged.ok AND slots.group_name = %(group)s AND slots.slot = held.slot
    RETURNING slots.lease_until
)
SELECT {include delivery_lost}, (SELECT max(lease_until) FROM extended), {commit} FROM judged
