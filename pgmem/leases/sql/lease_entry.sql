-- Piece: the asker as an entry of the queue.
jsonb_build_object(
    'id', %(owner)s::text, 'holder', %(holder)s::text, 'ttl', %(ttl)s::float8,
    'mark', %(mark)s::bigint,
    'until', round((extract(epoch FROM clock_timestamp()) + %(stay)s)::numeric, 3)
)
