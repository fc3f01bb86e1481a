-- Hand dead letters out again, with their attempts counted anew: some, or (NULL) all. Not those
-- that are handed out anyway, since the group was reset to before them: two would have them.
WITH before AS MATERIALIZED (
    SELECT held.position, held.xmin::text AS seen
    FROM {schema}.groups AS held WHERE held.name = %(group)s
),
locked AS MATERIALIZED (
    SELECT held.xmin::text AS seen FROM {schema}.groups AS held
    WHERE held.name = %(group)s FOR NO KEY UPDATE
),
allowed AS MATERIALIZED (
    SELECT before.position FROM locked JOIN before ON before.seen = locked.seen
),
risen AS (
    DELETE FROM {schema}.dead_letters AS letter
    USING allowed
    WHERE letter.group_name = %(group)s AND letter.position <= allowed.position
      AND (%(positions)s::bigint[] IS NULL OR letter.position = ANY (%(positions)s::bigint[]))
      AND EXISTS (SELECT FROM {schema}.events WHERE events.position = letter.position)
      AND NOT EXISTS (SELECT FROM {schema}.batches
                      WHERE group_name = %(group)s AND letter.position = ANY (positions))
      AND NOT EXISTS (SELECT FROM {schema}.delayed
                      WHERE group_name = %(group)s AND delayed.position = letter.position)
    RETURNING letter.position, letter.key, letter.error, letter.failures
),
delayed AS (
    INSERT INTO {schema}.delayed (group_name, position, key, attempts, available_at, error, failures)
    SELECT %(group)s, position, key, 0, clock_timestamp(), error, failures FROM risen
),
touched AS (
    UPDATE {schema}.groups AS held SET updated_at = held.updated_at
    WHERE held.name = %(group)s AND EXISTS (SELECT FROM risen)
),
counted AS (SELECT count(*) AS risen FROM risen),
target AS (
    SELECT CASE WHEN counted.risen > 0 THEN {include group_target} END AS payload FROM counted
)
SELECT counted.risen, EXISTS (SELECT FROM before), EXISTS (SELECT FROM allowed), {commit}, {notify_target}
FROM counted CROSS JOIN target
