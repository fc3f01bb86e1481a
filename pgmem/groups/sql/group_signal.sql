-- Piece: who waits for work of this group is told that there may be some.
json_build_array('!', 'group:' || %(group)s, NULL)::text
