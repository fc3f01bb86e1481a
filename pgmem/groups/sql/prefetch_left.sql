-- Piece: true if the member of a batch row has left its prefetched events.
prefetched <> '{{}}' AND claimed_at <= clock_timestamp() - make_interval(secs => %(prefetch_seconds)s)
