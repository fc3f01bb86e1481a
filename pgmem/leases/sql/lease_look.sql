-- How some of a process's waiters stand: whose lease it is, how long, and their place and entry in
-- the queue. One statement for all of them.
WITH asked AS MATERIALIZED (
    SELECT * FROM unnest(%(names)s::text[], %(owners)s::text[]) AS asked (name, owner)
),
queued AS MATERIALIZED (
    SELECT held.name, waiter.entry, waiter.place
    FROM {schema}.leases AS held,
         jsonb_array_elements(held.waiters) WITH ORDINALITY AS waiter (entry, place)
    WHERE held.name = ANY (%(names)s::text[])
)
SELECT asked.owner, held.owner = asked.owner, held.token,
       extract(epoch FROM held.expires_at - clock_timestamp())::float8, queued.place,
       (queued.entry ->> 'mark')::bigint,
       (queued.entry ->> 'until')::float8 - extract(epoch FROM clock_timestamp())::float8
FROM asked
LEFT JOIN {schema}.leases AS held ON held.name = asked.name
LEFT JOIN queued ON queued.name = asked.name AND queued.entry ->> 'id' = asked.owner
