-- Piece: the notification for the process whose waiter was granted the lease, if it listens.
SELECT CASE WHEN next.listener IS NOT NULL THEN json_build_array(
           '!', 'lease:' || next.owner_id, json_build_array(granted.token, granted.expires_at)
       )::text END AS payload, next.listener AS listener
FROM granted JOIN next ON next.owner_id = granted.owner_id
