-- Take a lease: nobody has it, or its time is over and nobody who still waits is before the asker
-- (else that one gets it now); or it is the asker's already, handed to it or by this very call, sent
-- again after a lost connection. Else stand in the queue, if asked to.
-- FOR UPDATE, because a write that is fenced by the lease holds FOR KEY SHARE until it has
-- committed; a renewal or another one's joining the queue goes together with both. Whoever finds
-- the row locked takes nothing and tries again.
WITH ours AS MATERIALIZED (
    SELECT name, waiters FROM {schema}.leases
    WHERE name = %(name)s AND expires_at <= clock_timestamp()
    FOR UPDATE SKIP LOCKED
),
next AS MATERIALIZED (
{include lease_next}
    WHERE waiter.entry ->> 'id' = %(owner)s OR ({include lease_alive})
    ORDER BY waiter.place LIMIT 1
),
handed AS (
    UPDATE {schema}.leases AS held
    SET token = nextval({lease_tokens}), owner = coalesce(next.owner, %(owner)s),
        holder = coalesce(next.holder, %(holder)s), acquired_at = clock_timestamp(),
        expires_at = clock_timestamp() + make_interval(secs => coalesce(next.ttl, %(ttl)s)),
        waiters = {include lease_rest}
            || CASE WHEN %(wait)s AND next.owner <> %(owner)s AND NOT ours.waiters @> {include lease_self}
               THEN {include lease_entry} ELSE '[]' END
    FROM ours LEFT JOIN next ON true
    WHERE held.name = ours.name
    RETURNING held.owner, held.holder, held.token, held.expires_at,
              jsonb_array_length(held.waiters) AS queue
),
added AS (
    INSERT INTO {schema}.leases (name, owner, holder, expires_at)
    SELECT %(name)s, %(owner)s, %(holder)s, clock_timestamp() + make_interval(secs => %(ttl)s)
    WHERE NOT EXISTS (SELECT FROM {schema}.leases WHERE name = %(name)s)
    ON CONFLICT (name) DO NOTHING
    RETURNING owner, holder, token, expires_at, 0 AS queue
),
joined AS (
    UPDATE {schema}.leases AS held SET waiters = {include lease_joined}
    WHERE name = %(name)s AND %(wait)s AND NOT EXISTS (SELECT FROM ours)
      AND (owner IS DISTINCT FROM %(owner)s OR expires_at <= clock_timestamp())
    RETURNING owner, holder, token, expires_at, jsonb_array_length(waiters) AS queue
),
seen AS (
    SELECT owner, holder, token, expires_at, 0 AS queue FROM {schema}.leases
    WHERE name = %(name)s AND NOT EXISTS (SELECT FROM ours)
      AND (owner = %(owner)s AND expires_at > clock_timestamp() OR NOT %(wait)s)
),
target AS (
{include lease_target}
    WHERE handed.owner <> %(owner)s
)
SELECT found.owner = %(owner)s AND found.expires_at > clock_timestamp(), found.token, found.holder,
       found.expires_at, extract(epoch FROM found.expires_at - clock_timestamp())::float8,
       found.queue, {commit}, {notify_listener}
FROM (TABLE handed UNION ALL TABLE added UNION ALL TABLE joined UNION ALL TABLE seen) AS found
LEFT JOIN target ON true
