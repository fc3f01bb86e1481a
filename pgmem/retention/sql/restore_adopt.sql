-- Make an empty log the one that a file comes from, so that further files of that log fit. Events
-- that were removed there are missing here.
WITH log AS (
    UPDATE {schema}.meta SET log_id = %(log)s::uuid
),
low_water AS (
    INSERT INTO {schema}.trimmed (stream, position, removed)
    VALUES (%(stream)s, %(position)s, %(removed)s)
)
SELECT {commit}
