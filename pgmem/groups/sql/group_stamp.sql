-- Let a group go on in the present timeline. Its position, what is open and what is delayed were
-- replicated together with the events. A group of another cluster stays as it is.
UPDATE {schema}.groups AS held
SET timeline = present.timeline, updated_at = clock_timestamp()
FROM (
{include history}
) AS present
WHERE held.name = %(group)s AND held.system_identifier = present.system_identifier
  AND held.timeline < present.timeline
RETURNING held.timeline, {commit}
