-- The ends of the log, the number of its events, and how many are new.
-- No index has the times of events, but they grow with the positions. So a binary search finds where
-- the last minute and the last hour begin: each row of `search` halves the range. If the positions
-- are many, events are counted in a hundred parts at even distances.
WITH RECURSIVE moment AS MATERIALIZED (SELECT clock_timestamp() AS now),
cut AS MATERIALIZED (
    SELECT coalesce(max(position) FILTER (WHERE stream = ''), 0) AS position,
           count(*) FILTER (WHERE stream <> '') AS streams,
           -- No time yet: a trim that is being recorded.
           max(nullif(trimmed_at, 'infinity')) AS trimmed_at,
           coalesce(sum(removed), 0)::bigint AS removed
    FROM {schema}.trimmed
),
span AS MATERIALIZED (
    SELECT {include event_head} AS head, oldest.position AS first,
           oldest.recorded_at AS first_at, newest.position AS last,
           newest.recorded_at AS last_at
    FROM cut
    -- From there on: in front of it, the index may be full of what was removed.
    LEFT JOIN LATERAL (
        SELECT position, recorded_at FROM {schema}.events
        WHERE position > cut.position ORDER BY position LIMIT 1
    ) AS oldest ON true
    LEFT JOIN LATERAL (
        SELECT position, recorded_at FROM {schema}.events ORDER BY position DESC LIMIT 1
    ) AS newest ON true
),
search (seconds, low, high) AS (
    -- All up to `low` is older, all from `high` on is not.
    SELECT edge.seconds, span.first - 1, span.last + 1
    FROM span CROSS JOIN (VALUES (60), (3600)) AS edge (seconds)
    WHERE span.first IS NOT NULL
    UNION ALL
    SELECT half.seconds,
           CASE WHEN met.recorded_at < moment.now - make_interval(secs => half.seconds)
                THEN met.position ELSE half.low END,
           CASE WHEN met.recorded_at < moment.now - make_interval(secs => half.seconds)
                THEN half.high ELSE half.middle END
    FROM (
        SELECT seconds, low, high, low + (high - low) / 2 AS middle
        FROM search WHERE high - low > 1
    ) AS half
    CROSS JOIN moment
    LEFT JOIN LATERAL (
        SELECT position, recorded_at FROM {schema}.events
        WHERE position >= half.middle AND position < half.high ORDER BY position LIMIT 1
    ) AS met ON true
),
part (name, low, high) AS (
    SELECT 'kept', 0::bigint, cut.position FROM cut
    UNION ALL SELECT 'all', cut.position, span.last FROM cut CROSS JOIN span
    UNION ALL
    SELECT CASE seconds WHEN 60 THEN 'minute' ELSE 'hour' END, min(search.high) - 1, span.last
    FROM search CROSS JOIN span GROUP BY seconds, span.last
),
counted AS MATERIALIZED (
    SELECT part.name, CASE WHEN part.high - part.low <= %(most)s THEN (
        SELECT count(*) FROM {schema}.events
        WHERE position > part.low AND position <= part.high
    ) END AS exact,
    CASE WHEN part.high - part.low > %(most)s THEN (
        SELECT round(count(*)::float8 * ((part.high - part.low)::float8 / %(most)s::float8))
        FROM generate_series(
            part.low, part.high - %(most)s / 100, (part.high - part.low) / 100
        ) AS sample (start)
        CROSS JOIN LATERAL (
            SELECT FROM {schema}.events
            WHERE position > sample.start AND position <= sample.start + %(most)s / 100
        ) AS found
    )::bigint END AS estimate
    FROM part
)
SELECT span.head, span.first, span.first_at, span.last, span.last_at,
       cut.position, cut.streams, cut.trimmed_at, cut.removed,
       (SELECT jsonb_object_agg(name, ARRAY[exact, estimate]) FROM counted)
FROM span CROSS JOIN cut
