-- The position of the n-th event after a position.
SELECT position FROM {schema}.events
WHERE position > %(after)s AND position <= %(until)s {filter}
ORDER BY position OFFSET %(number)s - 1 LIMIT 1
