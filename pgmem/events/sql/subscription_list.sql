-- List the subscriptions with the number of events that they select and have not handled. The
-- filter is unpacked once for each subscription (OFFSET 0), not for each event.
SELECT held.name, held.position, behind.lag,
       CASE WHEN held.expires_at > clock_timestamp() THEN held.owner END,
       CASE WHEN held.expires_at > clock_timestamp() THEN held.expires_at END,
       held.created_at, held.updated_at
FROM (SELECT * FROM {schema}.subscriptions {filter}) AS held
CROSS JOIN LATERAL (
    SELECT CASE WHEN held.filter -> 'streams' IS NOT NULL
               THEN ARRAY(SELECT json_array_elements_text(held.filter -> 'streams')) END AS streams,
           CASE WHEN held.filter -> 'types' IS NOT NULL
               THEN ARRAY(SELECT json_array_elements_text(held.filter -> 'types')) END AS types,
           CASE WHEN held.filter -> 'agents' IS NOT NULL
               THEN ARRAY(SELECT json_array_elements_text(held.filter -> 'agents')) END AS agents,
           held.filter ->> 'prefix' AS prefix,
           held.filter ->> 'key_prefix' AS key_prefix
    OFFSET 0
) AS wanted
CROSS JOIN LATERAL (
    SELECT count(*) AS lag
    FROM {schema}.events AS event
    WHERE event.position > held.position
      AND (wanted.streams IS NULL OR event.stream = ANY (wanted.streams))
      AND (wanted.types IS NULL OR event.type = ANY (wanted.types))
      AND (wanted.agents IS NULL OR event.agent_id = ANY (wanted.agents))
      AND (wanted.prefix IS NULL OR starts_with(event.stream, wanted.prefix))
      AND (wanted.key_prefix IS NULL OR starts_with(event.state_key, wanted.key_prefix))
) AS behind
ORDER BY held.name
