-- Hold events for another lease: all that was handed out together with them.
WITH {include delivery_held},
extended AS (
    UPDATE {schema}.batches AS batch
    SET expires_at = clock_timestamp() + make_interval(secs => %(lease)s)
    FROM held, judged
    WHERE judged.ok AND batch.group_name = %(group)s AND batch.id = held.id
    RETURNING batch.expires_at
)
SELECT {include delivery_lost}, (SELECT max(expires_at) FROM extended), {commit} FROM judged
