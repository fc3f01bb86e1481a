-- Take a lease, or join its queue of waiters.
-- A lease whose time is over goes to the first live waiter, or to the caller if there is none. A
-- call that is repeated after a lost connection finds the lease that it already has.
-- FOR UPDATE, because a fenced write holds FOR KEY SHARE until it has committed. Renewals and the
-- queue take a weaker lock and go on beside both. A caller that finds the row locked takes nothing.
WITH ours AS MATERIALIZED (
    SELECT name, waiters FROM {schema}.leases
    WHERE name = %(name)s AND expires_at <= clock_timestamp()
    FOR UPDATE SKIP LOCKED
),
next AS MATERIALIZED (
{include lease_queue_first}
    WHERE waiter.entry ->> 'id' = %(owner_id)s OR ({include lease_waiter_lives})
    ORDER BY waiter.place LIMIT 1
),
granted AS (
    UPDATE {schema}.leases AS held
    SET token = nextval({lease_tokens}), owner_id = coalesce(next.owner_id, %(owner_id)s),
        owner = coalesce(next.owner, %(owner)s), acquired_at = clock_timestamp(),
        expires_at = clock_timestamp() + make_interval(secs => coalesce(next.ttl, %(ttl)s)),
        waiters = {include lease_queue_rest}
            || CASE WHEN %(wait)s AND next.owner_id <> %(owner_id)s
                     AND NOT ours.waiters @> {include lease_queue_self}
               THEN {include lease_queue_entry} ELSE '[]' END
    FROM ours LEFT JOIN next ON true
    WHERE held.name = ours.name
    RETURNING held.owner_id, held.owner, held.token, held.expires_at,
              jsonb_array_length(held.waiters) AS queue
),
added AS (
    INSERT INTO {schema}.leases (name, owner_id, owner, expires_at)
    SELECT %(name)s, %(owner_id)s, %(owner)s,
           clock_timestamp() + make_interval(secs => %(ttl)s)
    WHERE NOT EXISTS (SELECT FROM {schema}.leases WHERE name = %(name)s)
    ON CONFLICT (name) DO NOTHING
    RETURNING owner_id, owner, token, expires_at, 0 AS queue
),
joined AS (
    UPDATE {schema}.leases AS held SET waiters = {include lease_queue_joined}
    WHERE name = %(name)s AND %(wait)s AND NOT EXISTS (SELECT FROM ours)
      AND (owner_id IS DISTINCT FROM %(owner_id)s OR expires_at <= clock_timestamp())
    RETURNING owner_id, owner, token, expires_at, jsonb_array_length(waiters) AS queue
),
seen AS (
    SELECT owner_id, owner, token, expires_at, 0 AS queue FROM {schema}.leases
    WHERE name = %(name)s AND NOT EXISTS (SELECT FROM ours)
      AND (owner_id = %(owner_id)s AND expires_at > clock_timestamp() OR NOT %(wait)s)
),
target AS (
{include lease_target}
    WHERE granted.owner_id <> %(owner_id)s
)
SELECT found.owner_id = %(owner_id)s AND found.expires_at > clock_timestamp(), found.token,
       found.owner, found.expires_at,
       extract(epoch FROM found.expires_at - clock_timestamp())::float8, found.queue,
       {commit}, {notify_listener}
FROM (TABLE granted UNION ALL TABLE added UNION ALL TABLE joined UNION ALL TABLE seen) AS found
LEFT JOIN target ON true
