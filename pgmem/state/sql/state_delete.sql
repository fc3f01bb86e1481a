-- Delete an entry, if its version is the expected one (or none is expected). The row stays without
-- a value and its version continues: otherwise an old expected_version could match an entry that
-- was deleted and created again.
WITH entry AS (
    UPDATE {schema}.state AS held
    SET value = NULL, version = version + 1, updated_at = clock_timestamp(), expires_at = NULL,
        ttl = NULL, recording = {include state_recording}
    WHERE key = %(key)s AND {include state_live}
      AND (%(expected_version)s::bigint IS NULL OR version = %(expected_version)s)
    {include state_entry}
),
{include state_change}
{include state_outcome}
