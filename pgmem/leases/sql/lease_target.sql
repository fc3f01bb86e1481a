-- Piece: the notification for the process whose waiter was granted the lease, if it listens.
SELECT CASE WHEN next.mark IS NOT NULL THEN json_build_array(
           '!', 'lease:' || next.owner, json_build_array(handed.token, handed.expires_at)
       )::text END AS payload, next.mark AS listener
FROM handed JOIN next ON next.owner = handed.owner
