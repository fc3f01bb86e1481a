-- Delete dedupe records that an import has made and that are unchanged.
WITH gone AS (
    DELETE FROM {schema}.dedupe
    USING unnest(%(keys)s::text[], %(owners)s::text[]) AS given (key, owner)
    WHERE dedupe.kind = 'work' AND dedupe.key = given.key AND dedupe.owner = given.owner
    RETURNING dedupe.key
)
SELECT (SELECT count(*) FROM gone), {commit}
