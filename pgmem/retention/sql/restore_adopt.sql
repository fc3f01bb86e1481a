-- Make an empty log the one that a file comes from: further files of it then belong here, too. What
-- had been removed there is missing here.
WITH log AS (
    UPDATE {schema}.meta SET log_id = %(log)s::uuid
),
mark AS (
    INSERT INTO {schema}.trimmed (stream, position, removed)
    VALUES (%(stream)s, %(position)s, %(removed)s)
)
SELECT {commit}
