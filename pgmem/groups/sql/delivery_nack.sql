-- Give events back. They are delayed until a time, or become dead letters after their last attempt
-- (at once if `dead`). In an ordered group, later ones of the same key and batch go back with them,
-- uncounted.
WITH {include group_alone},
{include delivery_held},
touched AS (
    UPDATE {schema}.groups AS slotted SET updated_at = slotted.updated_at
    FROM judged WHERE slotted.name = %(group)s AND judged.ok
),
each AS MATERIALIZED (
    SELECT held.id, held.member, one.position, coalesce(one.attempts, 1) AS attempts, one.key,
           one.position = ANY (held.asked) AS named, one.n
    FROM held CROSS JOIN judged
    CROSS JOIN LATERAL unnest(held.positions, held.attempts, held.keys)
        WITH ORDINALITY AS one (position, attempts, key, n)
    WHERE judged.ok
),
back AS MATERIALIZED (
    SELECT * FROM each
    WHERE named OR (NOT %(dead)s AND EXISTS (
        SELECT FROM each AS earlier
        WHERE earlier.id = each.id AND earlier.key = each.key AND earlier.named
          AND earlier.position < each.position))
),
dropped AS (
    UPDATE {schema}.batches AS batch
    SET positions = ARRAY(SELECT position FROM each WHERE each.id = held.id
                          AND position NOT IN (SELECT position FROM back) ORDER BY n),
        attempts = CASE WHEN held.attempts IS NOT NULL THEN ARRAY(
            SELECT attempts FROM each WHERE each.id = held.id
            AND position NOT IN (SELECT position FROM back) ORDER BY n) END,
        keys = CASE WHEN held.keys IS NOT NULL THEN ARRAY(
            SELECT key FROM each WHERE each.id = held.id
            AND position NOT IN (SELECT position FROM back) ORDER BY n) END
    FROM held, judged
    WHERE judged.ok AND batch.group_name = %(group)s AND batch.id = held.id
),
dead_lettered AS (
    INSERT INTO {schema}.dead_letters (group_name, position, key, attempts, member, error)
    SELECT %(group)s, position, key, attempts, member, %(error)s
    FROM back
    WHERE named AND (%(dead)s OR (%(counted)s AND attempts >= %(max_attempts)s))
    ON CONFLICT (group_name, position) DO UPDATE
        SET attempts = excluded.attempts, member = excluded.member, error = excluded.error,
            failed_at = clock_timestamp()
    RETURNING position
),
delayed AS (
    INSERT INTO {schema}.delayed (group_name, position, key, attempts, available_at, error)
    SELECT %(group)s, position, key,
           CASE WHEN named AND %(counted)s THEN attempts ELSE attempts - 1 END,
           clock_timestamp()
               + CASE WHEN named THEN make_interval(secs => %(delay)s) ELSE '0' END,
           CASE WHEN named THEN %(error)s END
    FROM back
    WHERE NOT (named AND (%(dead)s OR (%(counted)s AND attempts >= %(max_attempts)s)))
    RETURNING position
),
target AS (
    SELECT CASE WHEN judged.ok AND (%(delay)s <= 0 OR %(dead)s)
           THEN {include group_target} END AS payload
    FROM judged
)
SELECT {include delivery_lost}, {commit}, {notify_target} FROM judged CROSS JOIN target
