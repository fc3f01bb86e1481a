-- Add the result to a record, in the transaction that made the record.
UPDATE {schema}.dedupe SET result = %(result)s
WHERE kind = %(kind)s::text AND key = %(key)s AND token = %(token)s
RETURNING token
