-- Piece: the group in this statement's snapshot, and whether something else comes first.
present AS MATERIALIZED (
{include history}
),
before AS MATERIALIZED (
    SELECT held.position, held.max_attempts, held.system_identifier, held.timeline,
           held.xmin::text AS seen,
           held.revision,
           -- False if the group was altered, if its position belongs to another history, or if the
           -- member does not know yet that the server is on this timeline.
           held.system_identifier = present.system_identifier
               AND held.timeline = present.timeline
               AND present.timeline = coalesce(%(timeline)s::integer, present.timeline)
               AND held.revision = %(revision)s AS ready,
           (SELECT max(trimmed.position) FROM {schema}.trimmed
            WHERE trimmed.position > held.position AND trimmed_at > held.started_at {trimmed}
           ) AS trimmed,
           EXISTS (SELECT FROM {schema}.batches
                   WHERE group_name = %(group)s AND positions <> '{{}}'
                     AND expires_at <= clock_timestamp()) AS expired,
           -- A member that claims again has left its prefetched events, whose order is the log's.
           EXISTS (SELECT FROM {schema}.batches
                   WHERE group_name = %(group)s AND prefetched <> '{{}}'
                     AND (member = %(member)s OR {include prefetch_left})) AS unfetched,
           {due} AS due,
           (SELECT count(*) FROM (
               SELECT FROM {schema}.delayed WHERE group_name = %(group)s LIMIT %(delayed_most)s
            ) AS waiting) >= %(delayed_most)s AS full
    FROM {schema}.groups AS held CROSS JOIN present
    WHERE held.name = %(group)s
)
