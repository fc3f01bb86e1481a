-- Piece: write a first version.
INSERT INTO {schema}.state AS held (key, value, version, expires_at, ttl, recording, escaped)
    SELECT %(key)s, %(value)s, 1, clock_timestamp() + make_interval(secs => %(ttl)s), %(ttl)s,
           CASE WHEN %(record)s THEN 2 ELSE 0 END, %(escaped)s
