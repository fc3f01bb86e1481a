-- Write an entry if none exists and a lease is still held.
WITH {include lease_fence},
entry AS (
    {include state_insert}
    FROM fence
    {include state_overwrite}
        WHERE held.value IS NULL OR held.expires_at <= clock_timestamp()
    {include state_entry}
),
{include state_change}
{include state_outcome}
