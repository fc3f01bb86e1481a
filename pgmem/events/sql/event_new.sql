-- Read what is new at the end of the log: events in the open gaps, and events above everything
-- seen. The first row also reports trims above `after`, which is below the first gap, because an
-- event may have appeared in the gap and been removed since.
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
