-- Piece: the work is not seen to be done, or its result has expired.
NOT EXISTS (
    SELECT FROM {schema}.dedupe AS done
    WHERE done.kind = %(kind)s::text AND done.key = %(key)s AND done.completed_at IS NOT NULL
      AND (done.expires_at IS NULL OR done.expires_at > clock_timestamp())
)
