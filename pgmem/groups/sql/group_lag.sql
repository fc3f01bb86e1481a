-- Count the stable events of a group's selection that are not handed out, prefetched ones included.
SELECT (SELECT count(*) FROM {schema}.events
        WHERE position > held.position AND position <= %(until)s {filter})
       + (SELECT coalesce(sum(cardinality(prefetched)), 0)::bigint FROM {schema}.batches
          WHERE group_name = held.name)
FROM {schema}.groups AS held WHERE held.name = %(group)s
