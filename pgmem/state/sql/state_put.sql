-- Write an entry, whether there is one or not.
WITH entry AS (
    {include state_insert}
    {include state_overwrite}
    {include state_entry}
),
{include state_change}
SELECT entry.version, entry.updated_at, entry.created_at, entry.expires_at, entry.ttl, event.position,
       {commit}, CASE WHEN event.position IS NOT NULL THEN {notify} END
FROM entry LEFT JOIN event ON true
