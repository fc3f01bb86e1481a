-- Piece: the notification for waiting members of the group: there may be work.
json_build_array('!', 'group:' || %(group)s, NULL)::text
