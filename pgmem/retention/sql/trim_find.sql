-- Find the events to remove among the next events after a position. An event is due if it is not among
-- the newest ones (`cutoff`) or is too old. The search ends at the first event that is not due (unless
-- `anywhere`) and at the first one that the slowest reader has not read (unless `force`).
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
           position <= %(cutoff)s
           OR coalesce(recorded_at < (SELECT moment FROM oldest), false) AS due
    FROM {schema}.events
    WHERE position > %(after)s AND position <= %(until)s {filter}
    ORDER BY position LIMIT %(limit)s
),
examined AS MATERIALIZED (
    SELECT count(*) AS number, max(position) AS last,
           min(position) FILTER (WHERE NOT due AND NOT %(anywhere)s) AS not_due
    FROM candidate
),
due AS MATERIALIZED (
    SELECT event.position, {include trim_kept} AS kept,
           %(force)s OR event.position <= coalesce((SELECT position FROM slowest), event.position)
               AS free
    FROM candidate AS event CROSS JOIN examined
    WHERE event.due AND event.position < coalesce(examined.not_due, event.position + 1)
),
found AS MATERIALIZED (
    SELECT coalesce(array_agg(position ORDER BY position) FILTER (WHERE free AND NOT kept), '{{}}')
               AS positions,
           count(*) FILTER (WHERE free AND kept) AS kept,
           coalesce(bool_or(NOT free), false) AS held
    FROM due
)
SELECT found.positions, found.kept, examined.last, examined.number, examined.not_due,
       slowest.kind, slowest.name, slowest.position
FROM found CROSS JOIN examined LEFT JOIN slowest ON found.held
