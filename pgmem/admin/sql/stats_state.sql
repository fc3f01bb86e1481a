-- What the rows of state are, in a share of its pages.
SELECT count(*) FILTER (WHERE value IS NOT NULL AND (expires_at > clock_timestamp()) IS NOT FALSE),
       count(*) FILTER (WHERE value IS NULL),
       count(*) FILTER (WHERE value IS NOT NULL AND expires_at <= clock_timestamp())
FROM {schema}.state TABLESAMPLE SYSTEM (%(share)s)
