-- Count the events that are visible now.
SELECT count(*) FROM {schema}.events
WHERE position > %(after)s AND position <= %(until)s {filter}
