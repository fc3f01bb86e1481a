-- Write an entry, whether there is one or not.
WITH entry AS (
    {include state_insert}
    {include state_overwrite}
    {include state_entry}
),
{include state_change}
SELECT done.version, done.updated_at, done.created_at, done.expires_at, done.ttl, done.position,
       {commit}, CASE WHEN done.position IS NOT NULL THEN {notify} END
FROM done {with_inline}
