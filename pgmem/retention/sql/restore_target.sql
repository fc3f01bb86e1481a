-- The log's id, whether it has never held an event, and its head.
SELECT log_id::text,
       NOT EXISTS (SELECT FROM {schema}.events) AND NOT EXISTS (SELECT FROM {schema}.trimmed),
       {include event_head}
FROM {schema}.meta
