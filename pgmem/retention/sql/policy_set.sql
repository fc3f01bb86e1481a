-- Set a policy in place of an earlier one.
WITH policy AS (
    INSERT INTO {schema}.policies AS held (kind, name, max_count, max_age)
    VALUES (%(kind)s, %(name)s, %(max_count)s, %(max_age)s)
    ON CONFLICT (kind, name) DO UPDATE
        SET max_count = excluded.max_count, max_age = excluded.max_age,
            updated_at = clock_timestamp()
    RETURNING *
)
SELECT kind, name, max_count, max_age, updated_at, {commit} FROM policy
