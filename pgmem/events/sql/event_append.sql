-- Append one event.
WITH event AS (
    INSERT INTO {schema}.events (stream, type, payload, agent_id, metadata)
    VALUES (%(stream)s, %(type)s, %(payload)s, %(agent_id)s, %(metadata)s)
    RETURNING *
)
SELECT position, {commit}, {notify} FROM event
