-- Read the state entries that changed between two positions: what each was, and what it is. The last
-- column is how many there are, the limit aside.
WITH changed AS (
    SELECT state_key AS key, count(*) AS changes, count(*) OVER () AS entries,
           min(state_version) AS first_version,
           min(recorded_at) AS first_at, max(position) AS position,
           array_agg(DISTINCT agent_id ORDER BY agent_id)
               FILTER (WHERE agent_id IS NOT NULL) AS agents
    FROM {schema}.events
    WHERE position > %(after)s AND position <= %(until)s AND state_version IS NOT NULL {filter}
    GROUP BY state_key
    ORDER BY max(position) DESC
    LIMIT %(limit)s
)
SELECT changed.key, changed.changes, changed.agents, changed.position, after.state_version,
       CASE WHEN after.state_deleted OR after.state_expires_at <= clock_timestamp() THEN NULL
            ELSE coalesce(after.state_value, after.payload)::text END,
       before.state_version,
       CASE WHEN before.state_deleted OR before.state_expires_at <= changed.first_at THEN NULL
            ELSE coalesce(before.state_value, before.payload)::text END,
       changed.first_version, changed.entries
FROM changed
JOIN {schema}.events AS after ON after.position = changed.position
LEFT JOIN LATERAL (
    SELECT state_version, state_deleted, state_expires_at, state_value, payload
    FROM {schema}.events AS held
    WHERE held.state_key = changed.key AND held.state_version < changed.first_version
    ORDER BY held.state_version DESC LIMIT 1
) AS before ON true
ORDER BY changed.position DESC
