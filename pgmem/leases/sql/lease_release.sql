-- Release a lease: grant it to the first live waiter, or delete its row if there is none.
-- An open transaction with a fenced write keeps the row locked. Then the lease is only marked as
-- released (no owner id, its time over). After that transaction's end, this statement again or a
-- waiter grants it.
WITH ours AS MATERIALIZED (
    SELECT name, waiters FROM {schema}.leases
    WHERE name = %(name)s AND token = %(token)s
      AND (owner_id IS NULL
           OR owner_id = coalesce(%(owner_id)s, owner_id) AND expires_at > clock_timestamp())
    FOR UPDATE SKIP LOCKED
),
next AS MATERIALIZED (
{include lease_queue_first}
    WHERE {include lease_waiter_lives}
    ORDER BY waiter.place LIMIT 1
),
granted AS (
    UPDATE {schema}.leases AS held
    SET token = nextval({lease_tokens}), owner_id = next.owner_id, owner = next.owner,
        acquired_at = clock_timestamp(),
        expires_at = clock_timestamp() + make_interval(secs => next.ttl),
        waiters = {include lease_queue_rest}
    FROM ours, next
    WHERE held.name = ours.name
    RETURNING held.owner_id, held.token, held.expires_at
),
removed AS (
    DELETE FROM {schema}.leases USING ours
    WHERE leases.name = ours.name AND NOT EXISTS (SELECT FROM next)
    RETURNING leases.name
),
marked AS (
    UPDATE {schema}.leases SET owner_id = NULL, expires_at = clock_timestamp()
    WHERE name = %(name)s AND token = %(token)s AND owner_id = coalesce(%(owner_id)s, owner_id)
      AND expires_at > clock_timestamp() AND NOT EXISTS (SELECT FROM ours)
    RETURNING token
),
target AS (
{include lease_target}
)
SELECT EXISTS (SELECT FROM granted) OR EXISTS (SELECT FROM removed),
       EXISTS (SELECT FROM marked) OR current.token = %(token)s AND current.owner_id IS NULL,
       current.token, current.owner, current.expires_at, current.expires_at > clock_timestamp(),
       {commit}, {notify_listener}
FROM (VALUES (true)) AS always
LEFT JOIN target ON true
LEFT JOIN {schema}.leases AS current ON current.name = %(name)s
