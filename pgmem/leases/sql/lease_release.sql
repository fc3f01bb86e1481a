-- Give a lease back: to the first in its queue who still waits, or to nobody, and then its row goes.
-- A transaction with a write that is fenced by the lease keeps the row: then it is only marked as
-- given back (no owner, its time over), and whoever comes first after that transaction's end, this
-- statement again or one who waits, hands it on.
WITH ours AS MATERIALIZED (
    SELECT name, waiters FROM {schema}.leases
    WHERE name = %(name)s AND token = %(token)s
      AND (owner IS NULL
           OR owner = coalesce(%(owner)s, owner) AND expires_at > clock_timestamp())
    FOR UPDATE SKIP LOCKED
),
next AS MATERIALIZED (
{include lease_next}
    WHERE {include lease_alive}
    ORDER BY waiter.place LIMIT 1
),
handed AS (
    UPDATE {schema}.leases AS held
    SET token = nextval({lease_tokens}), owner = next.owner, holder = next.holder,
        acquired_at = clock_timestamp(),
        expires_at = clock_timestamp() + make_interval(secs => next.ttl),
        waiters = {include lease_rest}
    FROM ours, next
    WHERE held.name = ours.name
    RETURNING held.owner, held.token, held.expires_at
),
removed AS (
    DELETE FROM {schema}.leases USING ours
    WHERE leases.name = ours.name AND NOT EXISTS (SELECT FROM next)
    RETURNING leases.name
),
marked AS (
    UPDATE {schema}.leases SET owner = NULL, expires_at = clock_timestamp()
    WHERE name = %(name)s AND token = %(token)s AND owner = coalesce(%(owner)s, owner)
      AND expires_at > clock_timestamp() AND NOT EXISTS (SELECT FROM ours)
    RETURNING token
),
target AS (
{include lease_target}
)
SELECT EXISTS (SELECT FROM handed) OR EXISTS (SELECT FROM removed),
       EXISTS (SELECT FROM marked) OR current.token = %(token)s AND current.owner IS NULL,
       current.token, current.holder, current.expires_at, current.expires_at > clock_timestamp(),
       {commit}, {notify_listener}
FROM (VALUES (true)) AS always
LEFT JOIN target ON true
LEFT JOIN {schema}.leases AS current ON current.name = %(name)s
