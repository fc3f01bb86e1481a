-- Piece: the group's row, locked before anything else of it. Who takes out of a slot or out of what
-- is parked changes the row too, so that a reset, a deletion or a requeue that has waited for it
-- learns from its xmin that its snapshot is old.
locked AS MATERIALIZED (
    SELECT FROM {schema}.groups WHERE name = %(group)s FOR NO KEY UPDATE
)
