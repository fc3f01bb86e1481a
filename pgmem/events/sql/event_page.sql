-- Read a page of the log forwards. One statement has one snapshot, so retention can remove
-- nothing unnoticed between the first row and the events. The upper bound is a row comparison,
-- which the planner does not combine with the lower bound. Before the first ANALYZE it expects
-- few rows between two combined bounds, and would sort them.
({include event_page_head})
UNION ALL
(SELECT {include event_columns}
 FROM {schema}.events
 WHERE position > %(after)s AND (position, 0) <= (%(until)s, 0) {filter}
 ORDER BY position
 LIMIT %(limit)s)
