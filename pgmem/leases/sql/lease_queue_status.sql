-- The state of a process's waiters, all in one statement: the lease's holder and its remaining time,
-- and the place and the entry of the waiter in the queue.
WITH asked AS MATERIALIZED (
    SELECT * FROM unnest(%(names)s::text[], %(owner_ids)s::text[]) AS asked (name, owner_id)
),
queued AS MATERIALIZED (
    SELECT held.name, waiter.entry, waiter.place
    FROM {schema}.leases AS held,
         jsonb_array_elements(held.waiters) WITH ORDINALITY AS waiter (entry, place)
    WHERE held.name = ANY (%(names)s::text[])
)
SELECT asked.owner_id, held.owner_id = asked.owner_id, held.token,
       extract(epoch FROM held.expires_at - clock_timestamp())::float8, queued.place,
       (queued.entry ->> 'listener')::bigint,
       (queued.entry ->> 'until')::float8 - extract(epoch FROM clock_timestamp())::float8
FROM asked
LEFT JOIN {schema}.leases AS held ON held.name = asked.name
LEFT JOIN queued ON queued.name = asked.name AND queued.entry ->> 'id' = asked.owner_id
