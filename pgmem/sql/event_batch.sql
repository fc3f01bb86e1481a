-- Piece: several events, one array a column. In binary they unpack three times as fast as JSON.
unnest(
    %(types)b::text[], %(payloads)b::text[], %(agents)b::text[], %(metadata)b::text[]
) WITH ORDINALITY AS batch (type, payload, agent_id, metadata, n)
