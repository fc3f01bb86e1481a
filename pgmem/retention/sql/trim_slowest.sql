-- Piece: the slowest stored reader whose filter may select events of the stream. Nothing above its
-- position is removed. Of the whole log ('') each reader may want events.
    SELECT kind, name, position FROM (
        SELECT 'subscription' AS kind, name, position, filter::jsonb AS wanted
        FROM {schema}.subscriptions
        UNION ALL
        SELECT 'group', name, position, filter::jsonb FROM {schema}.groups
    ) AS reader
    WHERE %(stream)s = ''
       OR (coalesce(wanted->'streams' ? %(stream)s, true)
           AND coalesce(starts_with(%(stream)s, wanted->>'prefix'), true))
    ORDER BY position, kind, name LIMIT 1
