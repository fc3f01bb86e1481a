-- Piece: the row in front of the events that were handed out, in their columns; its position is 0.
-- From the CTEs `before` (the group as it was), `mine` (the batch row) and `plan` (its content).
SELECT 0::bigint, NULL::text, mine.token, ''::text,
       json_build_object(
           'found', before.position IS NOT NULL,
           'stale', coalesce({stale}, false),
           'acked', {acked},
           'batch', mine.id,
           'positions', CASE WHEN plan.attempts IS NOT NULL OR plan.keys IS NOT NULL
                        THEN plan.positions END,
           'attempts', plan.attempts,
           'keys', plan.keys,
           'losses', plan.losses,
           'altered', before.revision <> %(revision)s,
           'position', coalesce(plan.position, before.position),
           'expired', before.expired,
           'due', before.due,
           'unfetched', before.unfetched,
           'overtaken', {overtaken},
           'prefetched', mine.id IS NULL AND EXISTS (
               SELECT FROM {schema}.batches
               WHERE group_name = %(group)s AND prefetched <> '{{}}'),
           'wait', CASE WHEN mine.id IS NULL OR cardinality(plan.positions) < %(limit)s THEN (
               {include group_wait}
           ) END,
           'trimmed', before.trimmed,
           'begun', before.position,
           'stored', json_build_array(before.system_identifier, before.timeline),
           'present', json_build_array(present.system_identifier, present.timeline),
           'commit', {commit}
       )::text,
       NULL::text, NULL::text, mine.expires_at, NULL::text, NULL::bigint, NULL::boolean,
       NULL::text, NULL::timestamptz
FROM present
LEFT JOIN before ON true
LEFT JOIN mine ON true
LEFT JOIN plan ON true
