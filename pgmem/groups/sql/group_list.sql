-- The groups, or one of them, with what is open in each.
SELECT held.name, held.filter::text, held.ordered_by, held.max_attempts, held.retry::text,
       held.revision, held.position,
       held.created_at, held.updated_at,
       (SELECT coalesce(sum(cardinality(positions)), 0)::bigint FROM {schema}.batches
        WHERE group_name = held.name),
       (SELECT count(*) FROM {schema}.delayed WHERE group_name = held.name),
       (SELECT count(*) FROM {schema}.dead_letters WHERE group_name = held.name)
FROM {schema}.groups AS held
WHERE true {name}
ORDER BY held.name
