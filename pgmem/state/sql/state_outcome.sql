-- Piece: what was written or, if nothing was, what stands there instead.
SELECT done.version, done.updated_at, done.expires_at, done.position,
       current.version, current.updated_at, current.expires_at, current.value::text,{fenced}
       {commit}, CASE WHEN done.position IS NOT NULL THEN {notify} END
FROM (VALUES (true)) AS always
LEFT JOIN done ON true {with_inline}
LEFT JOIN {schema}.state AS current
    ON done.key IS NULL AND current.key = %(key)s AND current.value IS NOT NULL
    AND (current.expires_at IS NULL OR current.expires_at > clock_timestamp())
