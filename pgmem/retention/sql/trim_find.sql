-- Find what is to be removed among the oldest events behind a position. An event is due if it is
-- not among the newest that are kept (`cut`), or too old; the walk ends at the first that is not
-- (but for `anywhere`), and at the first that the slowest reader has not read (but for `force`).
WITH open AS MATERIALIZED (
{include trim_open}
),
slowest AS MATERIALIZED (
{include trim_slowest}
),
oldest AS MATERIALIZED (
    SELECT clock_timestamp() - make_interval(secs => %(max_age)s) AS moment
),
candidate AS MATERIALIZED (
    SELECT position, stream, stream_version, state_key,
           position <= %(cut)s
           OR coalesce(recorded_at < (SELECT moment FROM oldest), false) AS due
    FROM {schema}.events
    WHERE position > %(after)s AND position <= %(final)s {filter}
    ORDER BY position LIMIT %(limit)s
),
looked_at AS MATERIALIZED (
    SELECT count(*) AS number, max(position) AS last,
           min(position) FILTER (WHERE NOT due AND NOT %(anywhere)s) AS not_due
    FROM candidate
),
due AS MATERIALIZED (
    SELECT event.position, {include trim_kept} AS kept,
           %(force)s OR event.position <= coalesce((SELECT position FROM slowest), event.position)
               AS free
    FROM candidate AS event CROSS JOIN looked_at
    WHERE event.due AND event.position < coalesce(looked_at.not_due, event.position + 1)
),
found AS MATERIALIZED (
    SELECT coalesce(array_agg(position ORDER BY position) FILTER (WHERE free AND NOT kept), '{{}}')
               AS positions,
           count(*) FILTER (WHERE free AND kept) AS kept,
           coalesce(bool_or(NOT free), false) AS held
    FROM due
)
SELECT found.positions, found.kept, looked_at.last, looked_at.number, looked_at.not_due,
       slowest.kind, slowest.name, slowest.position
FROM found CROSS JOIN looked_at LEFT JOIN slowest ON found.held
