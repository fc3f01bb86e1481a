-- Hand dead letters out again, with their attempts counted anew: some, or (NULL) all.
WITH found AS (
    SELECT FROM {schema}.groups WHERE name = %(group)s
),
risen AS (
    DELETE FROM {schema}.dead_letters AS letter
    WHERE letter.group_name = %(group)s
      AND (%(positions)s::bigint[] IS NULL OR letter.position = ANY (%(positions)s::bigint[]))
      AND EXISTS (SELECT FROM {schema}.events WHERE events.position = letter.position)
      AND EXISTS (SELECT FROM found)
    RETURNING letter.position, letter.key, letter.error
),
parked AS (
    INSERT INTO {schema}.parked (group_name, position, key, attempts, available_at, error)
    SELECT %(group)s, position, key, 0, clock_timestamp(), error FROM risen
),
counted AS (SELECT count(*) AS risen FROM risen),
signal AS (
    SELECT CASE WHEN counted.risen > 0 THEN {include group_signal} END AS payload FROM counted
)
SELECT counted.risen, EXISTS (SELECT FROM found), {commit}, {signal}
FROM counted CROSS JOIN signal
