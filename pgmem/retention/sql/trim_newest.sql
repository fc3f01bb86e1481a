-- The number and the lowest position of the newest `keep` + 1 events.
SELECT count(*), min(position) FROM (
    SELECT position FROM {schema}.events
    WHERE position <= %(until)s {filter}
    ORDER BY position DESC LIMIT %(keep)s + 1
) AS newest
