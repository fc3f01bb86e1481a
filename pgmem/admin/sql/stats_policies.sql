-- The policies of retention. Of each kind the one for all comes first.
SELECT kind, nullif(name, ''), max_count, max_age FROM {schema}.policies ORDER BY kind, name
