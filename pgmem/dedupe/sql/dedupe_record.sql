-- Record that work is done, in the transaction that does it. A second caller waits here until that
-- transaction has ended. Work that is seen to be done is not written to: a conflict would lock its
-- row, and the commit would wait for the WAL flush.
WITH record AS (
    INSERT INTO {schema}.dedupe AS held (kind, key, fingerprint, completed_at, expires_at)
    SELECT %(kind)s::text, %(key)s, %(fingerprint)s::bytea, clock_timestamp(),
           clock_timestamp() + make_interval(secs => %(ttl)s)
    WHERE {include dedupe_not_done}
    ON CONFLICT (kind, key) DO UPDATE
        SET token = nextval({dedupe_tokens}), owner = NULL, lease_expires_at = NULL, result = NULL,
            fingerprint = CASE WHEN held.completed_at IS NULL
                          THEN coalesce(excluded.fingerprint, held.fingerprint)
                          ELSE excluded.fingerprint END,
            completed_at = excluded.completed_at, created_at = clock_timestamp(),
            expires_at = excluded.expires_at
        WHERE held.expires_at <= clock_timestamp()
           OR (held.completed_at IS NULL AND held.lease_expires_at <= clock_timestamp()
               AND coalesce(held.fingerprint = excluded.fingerprint, true))
    RETURNING token
)
SELECT record.token, NULL::timestamptz, current.completed_at IS NOT NULL, current.token,
       current.lease_expires_at, current.result::text, current.fingerprint, {commit}
FROM (VALUES (true)) AS always
LEFT JOIN record ON true
LEFT JOIN {schema}.dedupe AS current
    ON record.token IS NULL AND current.kind = %(kind)s::text AND current.key = %(key)s
