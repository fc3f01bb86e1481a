-- Acknowledge a whole batch and hand out the events prefetched in the same batch row. It touches no
-- other row, so members do not wait for each other. If the batch is lost or another member has taken
-- the prefetched events, it does nothing and gives no row. An event that a forced trim removed is
-- held and not given. When the lease expires, group_expire makes it a dead letter.
WITH mine AS (
    UPDATE {schema}.batches
    SET token = nextval({batch_tokens}), member = %(member)s,
        expires_at = clock_timestamp() + make_interval(secs => %(lease)s),
        positions = prefetched[:%(limit)s], prefetched = prefetched[%(limit)s + 1:],
        attempts = NULL, failures = NULL, losses = 0, claim = %(claim)s, alone = %(alone)s,
        claimed_at = clock_timestamp()
    WHERE group_name = %(group)s AND id = %(batch)s AND token = %(token)s
      AND positions OPERATOR(pg_catalog.=) %(positions)s::bigint[] AND prefetched <> '{{}}'
    RETURNING token, expires_at, positions, prefetched
)
(SELECT 0::bigint, {commit}, token, NULL::text, NULL::text, NULL::text, NULL::text, expires_at,
        NULL::text, cardinality(prefetched)::bigint, NULL::boolean, NULL::text, NULL::timestamptz
 FROM mine)
UNION ALL
(SELECT {include event_columns} FROM {schema}.events
 WHERE position = ANY ((SELECT positions FROM mine)::bigint[]) ORDER BY position)
