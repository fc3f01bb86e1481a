-- The rules of retention: those for all first.
SELECT kind, nullif(name, ''), max_count, max_age FROM {schema}.policies ORDER BY kind, name
