-- Which log this is, whether it has never held anything, and how far its positions are drawn.
SELECT log_id::text,
       NOT EXISTS (SELECT FROM {schema}.events) AND NOT EXISTS (SELECT FROM {schema}.trimmed),
       {include event_head}
FROM {schema}.meta
