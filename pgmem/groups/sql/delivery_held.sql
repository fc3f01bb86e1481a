-- Piece: lock the batch rows of the given events that still have the given tokens. `judged` is true
-- if all of them do. All or nothing: one that is lost stops the others.
asked AS MATERIALIZED (
    SELECT id, token, array_agg(position ORDER BY position) AS positions
    FROM unnest(%(slots)b::bigint[], %(tokens)b::bigint[], %(positions)b::bigint[])
         AS given (id, token, position)
    {after}
    GROUP BY id, token
),
held AS MATERIALIZED (
    SELECT slots.id, slots.member, slots.positions, slots.attempts, slots.keys,
           asked.positions AS asked, slots.positions = asked.positions AS whole
    FROM asked
    JOIN {schema}.batches AS slots
      ON slots.group_name = %(group)s AND slots.id = asked.id AND slots.token = asked.token
    WHERE slots.positions = asked.positions OR slots.positions @> asked.positions
    ORDER BY slots.id
    FOR UPDATE OF slots
),
judged AS MATERIALIZED (
    SELECT (SELECT count(*) FROM held) = (SELECT count(*) FROM asked) AS ok
)
