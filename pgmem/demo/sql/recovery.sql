-- The time from the kill of an agent to the first effect of its successor.
WITH killed AS (
    SELECT payload ->> 'role' AS role, (payload ->> 'incarnation')::int AS incarnation,
           (payload ->> 'open_transactions')::int AS open_transactions, recorded_at AS at
    FROM pgmem_demo.events
    WHERE stream = %(operations)s AND type = 'agent.killed'
),
recovered AS (
    SELECT killed.*, (
        SELECT min(recorded_at) FROM pgmem_demo.events
        WHERE stream IN (%(validated)s, %(outcomes)s, %(notified)s)
          AND agent_id = killed.role || '.' || killed.incarnation + 1
    ) AS effect_at
    FROM killed
)
SELECT count(*) AS kills, min(role) AS killed_agent,
       coalesce(sum(open_transactions), 0)::int AS killed_transactions,
       max(extract(epoch FROM effect_at - at))::float8 AS recovery_seconds
FROM recovered
