-- Write an entry if its version is the expected one.
WITH entry AS (
    {include state_set}
    {include state_entry}
),
{include state_change}
{include state_outcome}
