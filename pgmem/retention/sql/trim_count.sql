-- How many events there are between two positions.
SELECT count(*) FROM {schema}.events
WHERE position > %(after)s AND position <= %(final)s {filter}
