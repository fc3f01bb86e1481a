-- Release prefetched events that members left, or are asked to share, to all members. They are
-- delayed, due at once, and handed out before new ones. What a member fetches now is left alone.
WITH {include group_alone},
found AS MATERIALIZED (
    SELECT id, prefetched FROM {schema}.batches
    WHERE group_name = %(group)s AND prefetched <> '{{}}'
      AND CASE WHEN %(after)s::bigint IS NULL THEN member = %(member)s OR {include prefetch_left}
               ELSE prefetched[1] > %(after)s END
      AND EXISTS (SELECT FROM locked)
    ORDER BY cardinality(prefetched) DESC
    LIMIT CASE WHEN %(after)s::bigint IS NOT NULL THEN 1 END
    FOR UPDATE SKIP LOCKED
),
emptied AS (
    UPDATE {schema}.batches AS held SET prefetched = '{{}}'
    FROM found WHERE held.group_name = %(group)s AND held.id = found.id
),
touched AS (
    UPDATE {schema}.groups AS held SET updated_at = clock_timestamp()
    WHERE held.name = %(group)s AND EXISTS (SELECT FROM found)
),
shared AS (
    INSERT INTO {schema}.delayed (group_name, position, attempts, available_at)
    SELECT %(group)s, position, 0, clock_timestamp()
    FROM found CROSS JOIN LATERAL unnest(found.prefetched) AS position
    RETURNING position
),
target AS (
    SELECT CASE WHEN EXISTS (SELECT FROM shared) THEN {include group_target} END AS payload
)
SELECT (SELECT count(*) FROM shared), {commit}, {notify_target} FROM target
