-- Read the entries whose key begins with a prefix and whose value has certain fields. Keys compare
-- by their bytes, so a prefix is a range of the primary key.
SELECT key, value::text, version, updated_at, created_at, expires_at, ttl
FROM {schema}.state
WHERE {include state_live} {filter}
ORDER BY {order} LIMIT %(limit)s OFFSET %(offset)s
