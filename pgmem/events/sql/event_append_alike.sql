-- Append several events that differ in their payloads only, in their order. The other columns are
-- sent once, and nothing is sorted, as the positions are drawn in the order of the array.
WITH event AS (
    INSERT INTO {schema}.events (stream, type, payload, agent_id)
    SELECT %(stream)s, %(type)s, unnest(%(payloads)b::json[]), %(agent_id)s
    RETURNING {returned}
),
done AS (SELECT array_agg(position) AS positions FROM event)
SELECT positions, {commit}, {notify} FROM done
