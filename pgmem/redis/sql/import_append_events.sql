-- Append the events of a step.
WITH {include import_step},
event AS (
    INSERT INTO {schema}.events (stream, type, payload, agent_id, metadata)
    SELECT %(stream)s, batch.type, batch.payload, batch.agent_id, batch.metadata
    FROM {include event_batch}
    WHERE EXISTS (SELECT FROM step)
    ORDER BY batch.n
    RETURNING position
),
done AS (SELECT max(position) AS position FROM event)
SELECT step.step, found.token, found.step, {commit},
       CASE WHEN done.position IS NOT NULL THEN {notify} END
FROM done LEFT JOIN step ON true LEFT JOIN found ON true
