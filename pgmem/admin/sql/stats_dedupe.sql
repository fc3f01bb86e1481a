-- What the idempotency keys are, in a share of the table's pages.
SELECT count(*),
       count(*) FILTER (WHERE expires_at <= clock_timestamp()),
       count(*) FILTER (WHERE kind = 'work' AND completed_at IS NULL
                          AND lease_expires_at <= clock_timestamp())
FROM {schema}.dedupe TABLESAMPLE SYSTEM (%(share)s)
