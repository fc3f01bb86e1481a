-- Piece: what a queue contains if the asker stands in it.
jsonb_build_array(jsonb_build_object('id', %(owner)s::text))
