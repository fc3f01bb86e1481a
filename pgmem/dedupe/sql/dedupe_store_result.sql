-- Put the result beside the mark, in the transaction that made it.
UPDATE {schema}.dedupe SET result = %(result)s
WHERE kind = 'work' AND key = %(key)s AND token = %(token)s
RETURNING token
