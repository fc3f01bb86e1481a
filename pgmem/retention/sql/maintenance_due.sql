-- What a pass of maintenance has to do: nearly always nothing. A table that is too large to be read
-- here is always due, and is swept in parts.
SELECT
    EXISTS (SELECT FROM {schema}.trimmed WHERE trimmed_at = 'infinity'),
    EXISTS (SELECT FROM {schema}.policies),
    array_remove(ARRAY[
        CASE WHEN {pages dedupe} > %(pages)s THEN 'dedupe' WHEN EXISTS (
            SELECT FROM {schema}.dedupe WHERE expires_at <= clock_timestamp()
        ) THEN 'dedupe' END,
        CASE WHEN {pages state} > %(pages)s THEN 'state' WHEN EXISTS (
            SELECT FROM {schema}.state WHERE value IS NOT NULL AND expires_at <= clock_timestamp()
        ) THEN 'state' END,
        CASE WHEN {pages leases} > %(pages)s THEN 'leases' WHEN EXISTS (
            SELECT FROM {schema}.leases WHERE {include lease_unused}
        ) THEN 'leases' END,
        CASE WHEN {pages limits} > %(pages)s THEN 'limits' WHEN EXISTS (
            SELECT FROM {schema}.limits
            WHERE arrival <= clock_timestamp() - make_interval(secs => %(idle)s)
        ) THEN 'limits' END
    ], NULL),
    EXISTS (
        SELECT FROM {schema}.batches WHERE cardinality(positions) = 0 AND cardinality(prefetched) = 0
        GROUP BY group_name HAVING count(*) > %(keep)s
    ),
    EXISTS ({include vacuum_due})
