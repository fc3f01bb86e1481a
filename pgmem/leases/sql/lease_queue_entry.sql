-- Piece: the caller as an entry of the queue.
jsonb_build_object(
    'id', %(owner_id)s::text, 'owner', %(owner)s::text, 'ttl', %(ttl)s::float8,
    'listener', %(listener)s::bigint,
    'until', round((extract(epoch FROM clock_timestamp()) + %(entry_ttl)s)::numeric, 3)
)
