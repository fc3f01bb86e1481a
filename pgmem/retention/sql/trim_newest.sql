-- The lowest position among so many newest events and one, and how many there are at most of them.
SELECT count(*), min(position) FROM (
    SELECT position FROM {schema}.events
    WHERE position <= %(final)s {filter}
    ORDER BY position DESC LIMIT %(keep)s + 1
) AS newest
