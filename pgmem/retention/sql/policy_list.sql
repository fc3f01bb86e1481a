-- The policies of retention. Of each kind the one for all comes first.
SELECT kind, name, max_count, max_age, updated_at FROM {schema}.policies ORDER BY kind, name
