-- Piece: whether the member of a slot has not come for what is reserved in it.
reserved <> '{{}}' AND handed_at <= clock_timestamp() - make_interval(secs => %(reserve)s)
