-- Piece: remove the given events from their batch rows. A whole batch empties its row.
dropped AS (
    UPDATE {schema}.batches AS batch
    SET positions = CASE WHEN held.whole THEN '{{}}' ELSE ARRAY(
            SELECT position FROM unnest(held.positions) AS position
            WHERE position <> ALL (held.asked)) END,
        attempts = CASE WHEN NOT held.whole AND held.attempts IS NOT NULL THEN ARRAY(
            SELECT one.attempts FROM unnest(held.positions, held.attempts) AS one (position, attempts)
            WHERE one.position <> ALL (held.asked)) END,
        keys = CASE WHEN NOT held.whole AND held.keys IS NOT NULL THEN ARRAY(
            SELECT one.key FROM unnest(held.positions, held.keys) AS one (position, key)
            WHERE one.position <> ALL (held.asked)) END,
        failures = CASE WHEN NOT held.whole AND held.failures IS NOT NULL THEN ARRAY(
            SELECT one.failures
            FROM unnest(held.positions, held.failures) AS one (position, failures)
            WHERE one.position <> ALL (held.asked)) END
    FROM held, judged
    WHERE judged.ok AND batch.group_name = %(group)s AND batch.id = held.id
)
