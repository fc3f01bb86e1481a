-- Accept the present history of the log for a consumer, move it if told to, and fence off whoever
-- holds it.
WITH present AS MATERIALIZED (
{include history}
)
UPDATE {schema}.consumers AS held
SET token = nextval({consumer_tokens}), owner = NULL, lease_until = NULL,
    position = coalesce(%(after)s::bigint, held.position), updated_at = clock_timestamp(),
    system_identifier = present.system_identifier, timeline = present.timeline
FROM present
WHERE held.name = %(name)s
RETURNING held.position, {commit}
