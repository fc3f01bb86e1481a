-- Read the visible events in the order of the log, or against it. The upper bound: see
-- event_page.sql.
SELECT {include event_columns}
FROM {schema}.events
WHERE position > %(after)s AND (position, 0) <= (%(until)s, 0) {filter}
ORDER BY position {direction}
LIMIT %(limit)s
