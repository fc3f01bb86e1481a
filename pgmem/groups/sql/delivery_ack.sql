-- Acknowledge events. In a group that orders, those that waited for one of them are free now.
WITH {include delivery_held},
{include delivery_drop},
target AS (
    SELECT CASE WHEN judged.ok AND EXISTS (SELECT FROM held WHERE keys IS NOT NULL)
           AND EXISTS (SELECT FROM {schema}.delayed WHERE group_name = %(group)s)
           THEN {include group_target} END AS payload
    FROM judged
)
SELECT {include delivery_lost}, {commit}, {notify_target} FROM judged CROSS JOIN target
