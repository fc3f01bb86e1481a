-- Read the position of the newest visible event.
SELECT position FROM {schema}.events
WHERE true {filter}
ORDER BY position DESC LIMIT 1
