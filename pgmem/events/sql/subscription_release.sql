-- Release a subscription: another process may take it at once. The statement does not wait for
-- the row, because a transaction of the owner may have it locked and wait for this call to
-- return.
WITH ours AS MATERIALIZED (
    SELECT name FROM {schema}.subscriptions
    WHERE name = %(name)s AND token = %(token)s
      AND system_identifier = %(system_identifier)s AND timeline <= %(timeline)s
    FOR NO KEY UPDATE SKIP LOCKED
),
released AS (
    UPDATE {schema}.subscriptions SET expires_at = NULL, owner = NULL
    WHERE name = (SELECT name FROM ours)
    RETURNING token
)
SELECT released.token, current.token, {commit}
FROM (VALUES (true)) AS always
LEFT JOIN released ON true
LEFT JOIN {schema}.subscriptions AS current ON current.name = %(name)s
