-- Piece: the failures of an event with one more, `failed` (member, error). The last 20 are kept.
CASE WHEN jsonb_array_length(failed.failures) >= 20 THEN failed.failures - 0
     ELSE coalesce(failed.failures, '[]'::jsonb) END
    || jsonb_build_object('member', failed.member, 'at', clock_timestamp(),
                          'error', left(failed.error, 200))
