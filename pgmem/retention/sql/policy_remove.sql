-- Remove a policy.
DELETE FROM {schema}.policies WHERE kind = %(kind)s AND name = %(name)s
RETURNING name, {commit}
