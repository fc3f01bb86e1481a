-- Append several events: they travel as one JSON text, which the server unpacks.
-- A JSON null in the text arrives as an SQL NULL, hence the coalesce.
WITH event AS (
    INSERT INTO {schema}.events (stream, type, payload, agent_id, metadata)
    SELECT %(stream)s, batch.type, coalesce(batch.payload, 'null'), batch.agent_id, batch.metadata
    FROM ROWS FROM (
        json_to_recordset(%(events)s) AS (type text, payload json, agent_id text, metadata json)
    ) WITH ORDINALITY AS batch (type, payload, agent_id, metadata, n)
    ORDER BY batch.n
    RETURNING position
),
done AS (SELECT array_agg(position ORDER BY position) AS positions FROM event)
SELECT positions, {commit}, {bell} FROM done
