-- Piece: the entry that was written or, if none was, the one that exists.
SELECT entry.version, entry.updated_at, entry.created_at, entry.expires_at, entry.ttl, event.position,
       current.version, current.updated_at, current.created_at, current.expires_at, current.ttl,
       current.value::text,{fenced}
       {commit}, CASE WHEN event.position IS NOT NULL THEN {notify} END
FROM (VALUES (true)) AS always
LEFT JOIN entry ON true
LEFT JOIN event ON true
LEFT JOIN {schema}.state AS current
    ON entry.key IS NULL AND current.key = %(key)s AND current.value IS NOT NULL
    AND (current.expires_at IS NULL OR current.expires_at > clock_timestamp())
