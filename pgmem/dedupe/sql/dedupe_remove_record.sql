-- Remove a record, in the transaction that made it.
DELETE FROM {schema}.dedupe WHERE kind = %(kind)s::text AND key = %(key)s AND token = %(token)s
RETURNING token
