-- Delete a claim, so that the next caller may do the work.
WITH claim AS (
    DELETE FROM {schema}.dedupe
    WHERE kind = 'work' AND key = %(key)s AND token = %(token)s AND completed_at IS NULL
    RETURNING token
)
SELECT claim.token, current.token, current.completed_at IS NOT NULL, {commit}
FROM (VALUES (true)) AS always
LEFT JOIN claim ON true
LEFT JOIN {schema}.dedupe AS current
    ON claim.token IS NULL AND current.kind = 'work' AND current.key = %(key)s
