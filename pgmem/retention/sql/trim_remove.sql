-- Remove events and record the trim. Protected events are found again by the function's own snapshot.
SELECT number, first, last, position_before, removed_before
FROM {schema}.trim_events(%(stream)s, %(positions)s::bigint[], %(force)s)
