-- Give a claim back: the next caller may do the work.
WITH mark AS (
    DELETE FROM {schema}.dedupe
    WHERE kind = 'work' AND key = %(key)s AND token = %(token)s AND completed_at IS NULL
    RETURNING token
)
SELECT mark.token, current.token, current.completed_at IS NOT NULL, {commit}
FROM (VALUES (true)) AS always
LEFT JOIN mark ON true
LEFT JOIN {schema}.dedupe AS current
    ON mark.token IS NULL AND current.kind = 'work' AND current.key = %(key)s
