-- Write an entry if its version is the expected one and a lease is still held.
WITH {include lease_fence},
entry AS (
    {include state_set} AND EXISTS (SELECT FROM fence)
    {include state_entry}
),
{include state_change}
{include state_outcome}
