-- Piece: the next `recording` of the row `held`. The first unrecorded change after a recorded one
-- makes it 1 and still appends an event: without it, a process would serve a copy that is old.
CASE WHEN %(record)s THEN 2 WHEN held.recording = 2 THEN 1 ELSE 0 END
