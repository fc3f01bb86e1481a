-- Accept the present history for a subscription, move it if a position is given, and fence off
-- its owner. A position above the head (the end of the log was lost) comes down to the head,
-- because the next events would be skipped.
WITH present AS MATERIALIZED (
{include history}
),
head AS MATERIALIZED (
    SELECT {include event_head} AS position
),
moved AS (
    UPDATE {schema}.subscriptions AS held
    SET token = nextval({subscription_tokens}), owner = NULL, expires_at = NULL,
        position = coalesce(%(after)s::bigint, least(held.position, head.position)),
        updated_at = clock_timestamp(),
        system_identifier = present.system_identifier, timeline = present.timeline
    FROM present, head
    WHERE held.name = %(name)s AND coalesce(%(after)s::bigint, 0) <= head.position
    RETURNING held.position
)
SELECT moved.position, head.position,
       EXISTS (SELECT FROM {schema}.subscriptions WHERE name = %(name)s), {commit}
FROM head LEFT JOIN moved ON true
