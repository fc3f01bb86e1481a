-- Piece: write an entry if its version is the expected one.
UPDATE {schema}.state AS held
    SET value = %(value)s, version = version + 1, updated_at = clock_timestamp(),
        expires_at = CASE WHEN %(keep_ttl)s THEN expires_at
                     ELSE clock_timestamp() + make_interval(secs => %(ttl)s) END,
        ttl = CASE WHEN %(keep_ttl)s THEN ttl ELSE %(ttl)s END,
        recording = {include state_recording}, escaped = %(escaped)s
    WHERE key = %(key)s AND version = %(expected_version)s AND {include state_live}
