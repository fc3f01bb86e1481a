-- The position of the so-manieth event behind a position.
SELECT position FROM {schema}.events
WHERE position > %(after)s AND position <= %(final)s {filter}
ORDER BY position OFFSET %(number)s - 1 LIMIT 1
