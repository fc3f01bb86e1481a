-- Piece: the entry that was written or, if none was, the one that exists.
SELECT done.version, done.updated_at, done.created_at, done.expires_at, done.ttl, done.position,
       current.version, current.updated_at, current.created_at, current.expires_at, current.ttl,
       current.value::text,{fenced}
       {commit}, CASE WHEN done.position IS NOT NULL THEN {notify} END
FROM (VALUES (true)) AS always
LEFT JOIN done ON true {with_inline}
LEFT JOIN {schema}.state AS current
    ON done.key IS NULL AND current.key = %(key)s AND current.value IS NOT NULL
    AND (current.expires_at IS NULL OR current.expires_at > clock_timestamp())
