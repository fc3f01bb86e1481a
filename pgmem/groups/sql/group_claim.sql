-- Hand the next events of a group to a member: one row is written for all of them.
WITH {include group_before},
{include group_fresh},
{include group_write_batch}
({include group_front})
UNION ALL
(SELECT {include event_columns} FROM batch ORDER BY position)
