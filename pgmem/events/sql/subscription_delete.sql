-- Forget a consumer and its position. Its token is never given out again, so its holder is refused.
DELETE FROM {schema}.subscriptions WHERE name = %(name)s
RETURNING token, {commit}
