-- Create a group, or find the one of that name. It begins at `start`, or (NULL) at the head of the
-- log; not above the head, and not where events that it selects were removed.
WITH present AS MATERIALIZED (
{include history}
),
head AS MATERIALIZED (
    SELECT {include event_head} AS position
),
begun AS MATERIALIZED (
    SELECT coalesce(%(start)s::bigint, head.position) AS position, head.position AS head,
           (SELECT max(trimmed.position) FROM {schema}.trimmed
            WHERE trimmed.position > %(start)s AND %(start)s > 0 {trimmed}) AS trimmed
    FROM head
),
found AS MATERIALIZED (
    SELECT name FROM {schema}.groups WHERE name = %(group)s
),
added AS (
    INSERT INTO {schema}.groups
        (name, filter, ordered_by, max_attempts, retry, position, system_identifier, timeline)
    SELECT %(group)s, %(selection)s::json, %(ordered_by)s, %(max_attempts)s, %(retry)s::json, begun.position,
           present.system_identifier, present.timeline
    FROM present, begun
    WHERE NOT EXISTS (SELECT FROM found) AND present.timeline IS NOT NULL
      AND begun.position <= begun.head AND begun.trimmed IS NULL
    ON CONFLICT (name) DO NOTHING
    RETURNING position
)
SELECT added.position, begun.head, begun.trimmed, present.timeline,
       stored.filter::jsonb = %(selection)s::jsonb
           AND stored.ordered_by IS NOT DISTINCT FROM %(ordered_by)s
           AND stored.max_attempts = %(max_attempts)s
           AND stored.retry::jsonb IS NOT DISTINCT FROM %(retry)s::jsonb,
       stored.filter::text, stored.ordered_by, stored.max_attempts, stored.retry::text,
       stored.revision, {commit}
FROM present CROSS JOIN begun
LEFT JOIN added ON true
LEFT JOIN {schema}.groups AS stored ON stored.name = %(group)s
