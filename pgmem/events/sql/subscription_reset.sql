-- Accept the present history of the log for a consumer, move it if told to, and fence off whoever
-- holds it. A position that the log does not reach (its end was lost) comes down to the head:
-- events that are still to come would be skipped.
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
