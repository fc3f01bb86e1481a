-- Piece: whether the row `event` stays, whatever the limits: a group has claimed it or keeps it (the CTE
-- `open`), or it is the last event of a versioned stream, whose versions would begin again.
(event.position IN (SELECT position FROM open)
 OR (event.stream_version IS NOT NULL AND event.state_key IS NULL AND NOT EXISTS (
         SELECT FROM {schema}.events AS later
         WHERE later.stream = event.stream AND later.stream_version > event.stream_version
           AND later.stream_version IS NOT NULL AND later.state_key IS NULL)))
