-- Renew the leases of batches that a run holds. A row that a transaction has locked (it acknowledges
-- in it) is not waited for: no other member takes it meanwhile. Gives, for each batch that still has
-- its token, the positions in it and, if it was renewed, the new end.
WITH asked AS MATERIALIZED (
    SELECT id, token FROM unnest(%(batches)b::bigint[], %(tokens)b::bigint[]) AS asked (id, token)
),
held AS MATERIALIZED (
    SELECT batch.id
    FROM asked JOIN {schema}.batches AS batch
      ON batch.group_name = %(group)s AND batch.id = asked.id AND batch.token = asked.token
    WHERE batch.positions <> '{{}}'
    ORDER BY batch.id
    FOR UPDATE OF batch SKIP LOCKED
),
renewed AS (
    UPDATE {schema}.batches AS batch
    SET expires_at = clock_timestamp() + make_interval(secs => %(lease)s)
    FROM held WHERE batch.group_name = %(group)s AND batch.id = held.id
    RETURNING batch.id, batch.expires_at
)
SELECT asked.id, batch.positions, renewed.expires_at, {commit}
FROM asked
JOIN {schema}.batches AS batch
  ON batch.group_name = %(group)s AND batch.id = asked.id AND batch.token = asked.token
LEFT JOIN renewed ON renewed.id = asked.id
