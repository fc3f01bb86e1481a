-- Acknowledge deliveries and claim the next events, in one commit. If a delivery was lost, neither
-- happens.
WITH {include group_before},
{include delivery_held},
{include delivery_drop},
{include group_fresh},
{include group_write_batch}
({include group_front})
UNION ALL
(SELECT {include event_columns} FROM batch ORDER BY position)
