-- Piece: lock the group's row before any other row of the group. A statement that takes events from
-- a batch row or from the delayed ones changes this row too. So a reset, a deletion or a requeue
-- that waited for it learns from its xmin that its snapshot is old.
locked AS MATERIALIZED (
    SELECT max_attempts FROM {schema}.groups WHERE name = %(group)s FOR NO KEY UPDATE
)
