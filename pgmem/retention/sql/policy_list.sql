-- The rules of retention: those for all first.
SELECT kind, name, max_count, max_age, updated_at FROM {schema}.policies ORDER BY kind, name
