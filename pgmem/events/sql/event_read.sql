-- Read the visible events in the order of the log, or against it.
SELECT {include event_columns}
FROM {schema}.events
WHERE position > %(after)s AND position <= %(until)s {filter}
ORDER BY position {direction}
LIMIT %(limit)s
