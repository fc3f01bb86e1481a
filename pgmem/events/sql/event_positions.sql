-- The positions above a settled one, to see how far they follow each other without a gap.
SELECT position FROM {schema}.events
WHERE position > %(after)s ORDER BY position LIMIT %(limit)s
