-- Write an entry if none exists.
WITH entry AS (
    {include state_insert}
    {include state_overwrite}
        WHERE held.value IS NULL OR held.expires_at <= clock_timestamp()
    {include state_entry}
),
{include state_change}
{include state_outcome}
