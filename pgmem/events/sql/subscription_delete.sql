-- Delete a subscription and its position. Its token is never given again, so its owner is
-- refused.
DELETE FROM {schema}.subscriptions WHERE name = %(name)s
RETURNING token, {commit}
