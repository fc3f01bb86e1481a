-- Acknowledge events. In a group that orders, those that waited for one of them are free now.
WITH {include delivery_held},
{include delivery_drop},
signal AS (
    SELECT CASE WHEN judged.ok AND EXISTS (SELECT FROM held WHERE keys IS NOT NULL)
           AND EXISTS (SELECT FROM {schema}.parked WHERE group_name = %(group)s)
           THEN {include group_signal} END AS payload
    FROM judged
)
SELECT {include delivery_lost}, {commit}, {signal} FROM judged CROSS JOIN signal
