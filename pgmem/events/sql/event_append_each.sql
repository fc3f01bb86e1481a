-- Append an event for each of several callers, in their order. Each event is announced as if it
-- were alone: its position is drawn before its notification is decided.
WITH event AS (
    INSERT INTO {schema}.events (stream, type, payload, agent_id, metadata)
    SELECT batch.stream, batch.type, batch.payload, batch.agent_id, batch.metadata
    FROM unnest(
        %(streams)b::text[], %(types)b::text[], %(payloads)b::json[], %(agents)b::text[],
        %(metadata)b::json[]
    ) WITH ORDINALITY AS batch (stream, type, payload, agent_id, metadata, n)
    ORDER BY batch.n
    RETURNING *
)
SELECT position, (SELECT {commit}), {notify} FROM event
