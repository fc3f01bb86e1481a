-- Piece: the next `escaped` of a row with the column `value`.
strpos(value::text COLLATE "C", chr(92)) > 0
