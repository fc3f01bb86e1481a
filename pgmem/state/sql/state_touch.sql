-- Set when a live entry expires.
{include state_expire}
SELECT key, {commit}, CASE WHEN position IS NOT NULL THEN {notify} END FROM done
