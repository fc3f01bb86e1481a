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
           one.failures, held.losses, one.position = ANY (held.asked) AS named, one.n
    FROM held CROSS JOIN judged
    CROSS JOIN LATERAL unnest(held.positions, held.attempts, held.keys, held.failures)
        WITH ORDINALITY AS one (position, attempts, key, failures, n)
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
            AND position NOT IN (SELECT position FROM back) ORDER BY n) END,
        failures = CASE WHEN held.failures IS NOT NULL THEN ARRAY(
            SELECT failures FROM each WHERE each.id = held.id
            AND position NOT IN (SELECT position FROM back) ORDER BY n) END
    FROM held, judged
    WHERE judged.ok AND batch.group_name = %(group)s AND batch.id = held.id
),
failed AS MATERIALIZED (
    SELECT back.*, %(error)s::text AS error,
           back.named AND %(counted)s AS counted,
           back.named AND (%(dead)s OR (
               %(counted)s AND back.attempts >= (SELECT max_attempts FROM locked))) AS dead
    FROM back
),
dead_lettered AS (
    INSERT INTO {schema}.dead_letters
        (group_name, position, key, attempts, member, error, failures)
    SELECT %(group)s, position, key, CASE WHEN counted THEN attempts ELSE attempts - 1 END, member,
           error, {include failure}
    FROM failed WHERE dead
    ON CONFLICT (group_name, position) DO UPDATE
        SET attempts = excluded.attempts, member = excluded.member, error = excluded.error,
            failures = excluded.failures, failed_at = clock_timestamp()
    RETURNING position
),
delayed AS (
    INSERT INTO {schema}.delayed
        (group_name, position, key, attempts, available_at, error, losses, failures)
    SELECT %(group)s, position, key,
           CASE WHEN counted THEN attempts ELSE attempts - 1 END,
           clock_timestamp()
               + CASE WHEN named THEN make_interval(secs => %(delay)s) ELSE '0' END,
           CASE WHEN named THEN error END,
           -- A handler that ended did not kill its member.
           CASE WHEN counted THEN 0 ELSE losses END,
           CASE WHEN counted THEN {include failure} ELSE failures END
    FROM failed WHERE NOT dead
    RETURNING position
),
target AS (
    SELECT CASE WHEN judged.ok AND (%(delay)s::float8 <= 0::float8 OR %(dead)s)
           THEN {include group_target} END AS payload
    FROM judged
)
SELECT {include delivery_lost}, {commit}, {notify_target} FROM judged CROSS JOIN target
