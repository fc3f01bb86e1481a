-- Count the events between two positions.
SELECT count(*) FROM {schema}.events
WHERE position > %(after)s AND position <= %(until)s {filter}
