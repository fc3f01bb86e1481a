-- Piece: what a change of the row `held` makes of its `recording`. The first change that is not
-- recorded over one that is makes it 1, and is in the log all the same: whoever has a copy must
-- learn that it is void.
CASE WHEN %(record)s THEN 2 WHEN held.recording = 2 THEN 1 ELSE 0 END
