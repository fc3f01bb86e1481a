-- Append several events, in their order.
WITH event AS (
    INSERT INTO {schema}.events (stream, type, payload, agent_id, metadata)
    SELECT %(stream)s, batch.type, batch.payload, batch.agent_id, batch.metadata
    FROM {include event_batch}
    ORDER BY batch.n
    RETURNING {returned}
),
done AS (SELECT array_agg(position) AS positions FROM event)
SELECT positions, {commit}, {notify} FROM done
