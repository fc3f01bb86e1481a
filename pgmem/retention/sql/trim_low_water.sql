-- The highest removed position of a stream, or ('') of the whole log, and the number of events that
-- were removed so far in trims that may have removed some of them.
SELECT coalesce(max(position) FILTER (WHERE stream IN ('', %(stream)s)), 0),
       coalesce(sum(removed), 0)::bigint
FROM {schema}.trimmed
WHERE %(stream)s = '' OR stream IN ('', %(stream)s)
