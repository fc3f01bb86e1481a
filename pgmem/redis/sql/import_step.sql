-- Piece: one step of a part. It is made only by the process that opened the part last, and only once.
-- So a step that is sent again after a lost connection, or by an older process, changes nothing.
step AS (
    UPDATE {schema}.imports
    SET cursor = %(cursor)s, step = step + 1, done = done + %(done)s,
        refused = refused + %(refused)s, detail = coalesce(%(detail)s::json, detail),
        updated_at = clock_timestamp()
    WHERE source = %(source)s AND part = %(part)s AND token = %(token)s AND step = %(step)s
    RETURNING step
),
found AS (
    SELECT token, step FROM {schema}.imports WHERE source = %(source)s AND part = %(part)s
)
