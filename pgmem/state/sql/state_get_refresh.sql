-- One live entry, whose expiry the read pushes out.
{include state_expire}
SELECT key, value::text, version, updated_at, expires_at, {commit},
       CASE WHEN position IS NOT NULL THEN {notify} END
FROM done
