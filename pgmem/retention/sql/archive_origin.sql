-- The log's id (which is set now if it has none), its history, and what has been removed of a stream,
-- or ('') of the whole log.
WITH named AS (
    UPDATE {schema}.meta SET log_id = gen_random_uuid() WHERE log_id IS NULL RETURNING log_id
)
SELECT coalesce(named.log_id, meta.log_id)::text, history.system_identifier, history.timeline,
       low_water.position, low_water.removed, {commit}
FROM {schema}.meta
CROSS JOIN ({include history}) AS history
LEFT JOIN named ON true
LEFT JOIN {schema}.trimmed AS low_water ON low_water.stream = %(stream)s
