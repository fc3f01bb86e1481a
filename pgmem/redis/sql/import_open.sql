-- Open a part: only the process that opened it last makes steps. A step that is under way is waited
-- for. A part is refused if another part fills its target, or if it has filled another target.
WITH rival AS (
    SELECT source, part FROM {schema}.imports
    WHERE target = %(target)s AND (source, part) <> (%(source)s, %(part)s)
),
part AS (
    INSERT INTO {schema}.imports AS held (source, part, target, cursor, token)
    SELECT %(source)s, %(part)s, %(target)s, '', %(token)s
    WHERE NOT EXISTS (SELECT FROM rival)
    ON CONFLICT (source, part) DO UPDATE
        SET token = excluded.token, updated_at = clock_timestamp()
        WHERE held.target IS NOT DISTINCT FROM excluded.target
    RETURNING *
)
SELECT {include import_columns}, rival.source, rival.part, other.target, {commit}
FROM (VALUES (true)) AS always
LEFT JOIN part ON true
LEFT JOIN rival ON true
LEFT JOIN {schema}.imports AS other
    ON part.source IS NULL AND other.source = %(source)s AND other.part = %(part)s
