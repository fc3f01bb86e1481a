-- Piece: the columns of a part.
part.source, part.part, part.target, part.cursor, part.token, part.step, part.done, part.refused,
part.detail::text, part.created_at, part.updated_at
