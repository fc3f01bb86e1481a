-- Read a page of the log forwards. One statement, so one snapshot: what retention removes between
-- the row in front and the events cannot go unnoticed.
-- The upper bound is a row comparison, which the planner does not join with the lower one: before
-- the first ANALYZE it takes a range with two bounds for very few rows, and would sort them.
({include event_page_head})
UNION ALL
(SELECT {include event_columns}
 FROM {schema}.events
 WHERE position > %(after)s AND (position, 0) <= (%(until)s, 0) {filter}
 ORDER BY position
 LIMIT %(limit)s)
