-- Up to where events of a stream, or ('') of the whole log, have been removed, and how many have
-- been removed so far where that may have been some of them.
SELECT coalesce(max(position) FILTER (WHERE stream IN ('', %(stream)s)), 0),
       coalesce(sum(removed), 0)::bigint
FROM {schema}.trimmed
WHERE %(stream)s = '' OR stream IN ('', %(stream)s)
