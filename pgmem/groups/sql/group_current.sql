-- Piece: the group's row, locked, if it is still the one that the snapshot shows. Who waited for it
-- does not see what the one before has handed out, and with it which keys are taken: he must begin
-- anew. Every claim in a group that orders changes the row, so its xmin tells.
locked AS MATERIALIZED (
    SELECT held.position, held.xmin::text AS seen
    FROM {schema}.groups AS held
    WHERE held.name = %(group)s AND EXISTS (SELECT FROM before WHERE {ready})
    FOR NO KEY UPDATE
),
current AS MATERIALIZED (
    SELECT locked.position FROM locked JOIN before ON before.seen = locked.seen
),
busy AS MATERIALIZED (
    SELECT DISTINCT key FROM {schema}.batches CROSS JOIN LATERAL unnest(keys) AS key
    WHERE group_name = %(group)s AND key IS NOT NULL
)
