-- Piece: lock the group's row if it is still the one that the snapshot shows. A claim that waited for
-- it does not see which keys the claim before it took, so it must start again. Each claim of an
-- ordered group changes the row, so its xmin shows that.
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
