-- Read the keys of entries, or their first segments.
SELECT DISTINCT name COLLATE "C" FROM (
    SELECT {name} AS name FROM {schema}.state WHERE {include state_live} {filter}
) AS found
WHERE name COLLATE "C" > %(after)s
ORDER BY 1 LIMIT %(limit)s
