-- Piece: lock the batch rows of the given events that still have the given tokens. `judged` is true
-- if all of them do. All or nothing: one that is lost stops the others.
asked AS MATERIALIZED (
    SELECT id, token, array_agg(position ORDER BY position) AS positions
    FROM unnest(%(batches)b::bigint[], %(tokens)b::bigint[], %(positions)b::bigint[])
         AS given (id, token, position)
    {after}
    GROUP BY id, token
),
held AS MATERIALIZED (
    SELECT batch.id, batch.member, batch.positions, batch.attempts, batch.keys,
           batch.failures, batch.losses, asked.positions AS asked, 
           batch.positions OPERATOR(pg_catalog.=) asked.positions AS whole
    FROM asked
    JOIN {schema}.batches AS batch
      ON batch.group_name = %(group)s AND batch.id = asked.id AND batch.token = asked.token
    WHERE batch.positions OPERATOR(pg_catalog.=) asked.positions
       OR batch.positions @> asked.positions
    ORDER BY batch.id
    FOR UPDATE OF batch
),
judged AS MATERIALIZED (
    SELECT (SELECT count(*) FROM held) = (SELECT count(*) FROM asked) AS ok
)
