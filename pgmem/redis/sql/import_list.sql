-- The parts of one import or of all, or one part.
SELECT {include import_columns} FROM {schema}.imports AS part
WHERE (%(source)s::text IS NULL OR part.source = %(source)s)
  AND (%(part)s::text IS NULL OR part.part = %(part)s)
ORDER BY part.source, part.part
