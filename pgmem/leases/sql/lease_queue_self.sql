-- Piece: what a queue contains if the caller is in it.
jsonb_build_array(jsonb_build_object('id', %(owner_id)s::text))
