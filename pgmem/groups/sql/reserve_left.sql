-- Piece: whether the member of a slot has not come for what is reserved in it.
prefetched <> '{{}}' AND claimed_at <= clock_timestamp() - make_interval(secs => %(reserve)s)
