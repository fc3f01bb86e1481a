-- Read what is new at the end of the log: events in the gaps that were seen before, and events
-- behind all that was seen. The row in front tells of what was trimmed behind `after`, which is in
-- front of the first gap: an event may have appeared in it and have been removed since.
({include event_page_head})
UNION ALL
(SELECT {include event_columns}
 FROM unnest(%(low)b::bigint[], %(high)b::bigint[]) AS gap (low, high)
 CROSS JOIN LATERAL (
     SELECT * FROM {schema}.events
     WHERE position BETWEEN gap.low AND gap.high
     ORDER BY position LIMIT %(late)s
 ) AS late
 ORDER BY position
 LIMIT %(late)s)
UNION ALL
(SELECT {include event_columns}
 FROM {schema}.events
 WHERE position > %(seen)s
 ORDER BY position
 LIMIT %(limit)s)
