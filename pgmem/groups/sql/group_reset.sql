-- Move a group, and accept the present history of the log for it. What is open in it is open no
-- more: late acknowledgements are refused. Dead letters stay.
WITH present AS MATERIALIZED (
{include history}
),
head AS MATERIALIZED (
    SELECT {include event_head} AS position
),
before AS MATERIALIZED (
    SELECT held.xmin::text AS seen, head.position AS head,
           (SELECT max(trimmed.position) FROM {schema}.trimmed
            WHERE trimmed.position > %(position)s AND %(position)s > 0 {trimmed}) AS trimmed
    FROM {schema}.groups AS held CROSS JOIN head WHERE held.name = %(group)s
),
locked AS MATERIALIZED (
    SELECT held.xmin::text AS seen FROM {schema}.groups AS held
    WHERE held.name = %(group)s FOR NO KEY UPDATE
),
-- A claim before this one has handed out what this snapshot does not show.
allowed AS MATERIALIZED (
    SELECT FROM locked JOIN before ON before.seen = locked.seen
    WHERE before.head >= %(position)s AND before.trimmed IS NULL
),
moved AS (
    UPDATE {schema}.groups AS held
    SET position = %(position)s, started_at = clock_timestamp(), updated_at = clock_timestamp(),
        system_identifier = present.system_identifier, timeline = present.timeline
    FROM present WHERE held.name = %(group)s AND EXISTS (SELECT FROM allowed)
    RETURNING held.position
),
fenced AS (
    UPDATE {schema}.batches
    SET token = nextval({batch_tokens}), positions = '{{}}', attempts = NULL, keys = NULL,
        failures = NULL, prefetched = '{{}}'
    WHERE group_name = %(group)s AND (positions <> '{{}}' OR prefetched <> '{{}}')
      AND EXISTS (SELECT FROM allowed)
),
forgotten AS (
    DELETE FROM {schema}.delayed WHERE group_name = %(group)s AND EXISTS (SELECT FROM allowed)
),
target AS (SELECT {include group_target} AS payload FROM moved)
SELECT moved.position, before.head, before.trimmed, before.seen IS NOT NULL,
       before.seen IS DISTINCT FROM locked.seen, {commit}, {notify_target}
FROM (VALUES (true)) AS always
LEFT JOIN before ON true LEFT JOIN locked ON true LEFT JOIN moved ON true
LEFT JOIN target ON true
