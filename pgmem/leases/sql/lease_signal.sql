-- Piece: what wakes the process of the one whom `handed` has given the lease, if it can hear.
SELECT CASE WHEN next.mark IS NOT NULL THEN json_build_array(
           '!', 'lease:' || next.owner, json_build_array(handed.token, handed.expires_at)
       )::text END AS payload, next.mark
FROM handed JOIN next ON next.owner = handed.owner
