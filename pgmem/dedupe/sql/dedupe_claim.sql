-- Claim a piece of work if its key is new, its claim has run out, its result has expired, or the
-- claim is the call's own (executed again after a lost connection). Work that is seen to be done is
-- not written to: a conflict would lock its row, and the commit would wait for the WAL flush. A claim
-- that has run out keeps its fingerprint: its work may have been done in part.
WITH claim AS (
    INSERT INTO {schema}.dedupe AS held (kind, key, owner, fingerprint, lease_expires_at)
    SELECT %(kind)s::text, %(key)s, %(owner)s, %(fingerprint)s::bytea,
           clock_timestamp() + make_interval(secs => %(lease)s)
    WHERE {include dedupe_not_done}
    ON CONFLICT (kind, key) DO UPDATE
        SET token = nextval({dedupe_tokens}), owner = excluded.owner,
            fingerprint = CASE WHEN held.completed_at IS NULL
                          THEN coalesce(excluded.fingerprint, held.fingerprint)
                          ELSE excluded.fingerprint END,
            lease_expires_at = excluded.lease_expires_at, completed_at = NULL, result = NULL,
            created_at = clock_timestamp(), expires_at = NULL
        WHERE held.expires_at <= clock_timestamp()
           OR (held.completed_at IS NULL
               AND (held.lease_expires_at <= clock_timestamp() OR held.owner = excluded.owner)
               AND coalesce(held.fingerprint = excluded.fingerprint, true))
    RETURNING token, lease_expires_at
)
SELECT claim.token, claim.lease_expires_at, current.completed_at IS NOT NULL, current.token,
       current.lease_expires_at, current.result::text, current.fingerprint, {commit}
FROM (VALUES (true)) AS always
LEFT JOIN claim ON true
LEFT JOIN {schema}.dedupe AS current
    ON claim.token IS NULL AND current.kind = %(kind)s::text AND current.key = %(key)s
