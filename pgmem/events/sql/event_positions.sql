-- Read the positions above a stable one, to find the first that is missing.
SELECT position FROM {schema}.events
WHERE position > %(after)s ORDER BY position LIMIT %(limit)s
