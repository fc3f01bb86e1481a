-- Fill a group with its state in another store: the position and, in a range, the open events. They
-- are delayed, so the next member gets them. The group is made if it is new. A group that members have
-- read from since it was filled or reset is left as it is, and so is one that changes at this moment.
WITH {include import_step},
present AS MATERIALIZED (
{include history}
),
before AS MATERIALIZED (
    SELECT held.xmin::text AS seen, held.position, held.ordered_by,
           held.filter::jsonb = %(selection)s::jsonb
           AND NOT EXISTS (SELECT FROM {schema}.batches
                           WHERE group_name = %(group)s AND claimed_at > held.started_at)
           AND NOT EXISTS (SELECT FROM {schema}.dead_letters
                           WHERE group_name = %(group)s AND failed_at > held.started_at) AS idle,
           CASE WHEN %(known)s::bigint IS NULL
           THEN NOT EXISTS (SELECT FROM {schema}.delayed WHERE group_name = %(group)s)
           ELSE held.position = %(known)s END AS ours
    FROM {schema}.groups AS held WHERE held.name = %(group)s
),
locked AS MATERIALIZED (
    SELECT held.xmin::text AS seen FROM {schema}.groups AS held
    WHERE held.name = %(group)s AND EXISTS (SELECT FROM step)
    FOR NO KEY UPDATE
),
allowed AS MATERIALIZED (
    SELECT before.ordered_by FROM locked JOIN before ON before.seen = locked.seen
    WHERE before.idle AND before.ours
),
moved AS (
    UPDATE {schema}.groups AS held
    SET position = %(position)s, updated_at = clock_timestamp(),
        system_identifier = present.system_identifier, timeline = present.timeline
    FROM present WHERE held.name = %(group)s AND EXISTS (SELECT FROM allowed)
),
added AS (
    INSERT INTO {schema}.groups
        (name, filter, max_attempts, position, system_identifier, timeline)
    SELECT %(group)s, %(selection)s::json, %(max_attempts)s, %(position)s,
           present.system_identifier, present.timeline
    FROM present WHERE EXISTS (SELECT FROM step) AND NOT EXISTS (SELECT FROM before)
    ON CONFLICT (name) DO NOTHING
    RETURNING ordered_by
),
mine AS MATERIALIZED (SELECT ordered_by FROM allowed UNION ALL SELECT ordered_by FROM added),
given AS MATERIALIZED (
    SELECT given.position, given.attempts, given.note
    FROM unnest(%(positions)s::bigint[], %(attempts)s::integer[], %(notes)b::text[])
        AS given (position, attempts, note)
),
done AS (
    DELETE FROM {schema}.delayed AS waiting
    USING mine
    WHERE waiting.group_name = %(group)s
      AND waiting.position > %(after)s AND waiting.position <= %(until)s
      AND waiting.position NOT IN (SELECT position FROM given)
),
open AS (
    INSERT INTO {schema}.delayed AS waiting
        (group_name, position, key, attempts, available_at, error)
    SELECT %(group)s, given.position,
           left(CASE WHEN mine.ordered_by = 'stream' THEN event.stream
                     WHEN mine.ordered_by IS NOT NULL THEN event.payload ->> mine.ordered_by END, 512),
           given.attempts, clock_timestamp(), given.note
    FROM given
    JOIN {schema}.events AS event ON event.position = given.position
    CROSS JOIN mine
    ON CONFLICT (group_name, position) DO UPDATE
        SET attempts = excluded.attempts, error = excluded.error
        WHERE (waiting.attempts, waiting.error) IS DISTINCT FROM (excluded.attempts, excluded.error)
)
SELECT step.step, found.token, found.step, {commit},
       EXISTS (SELECT FROM mine)
       OR EXISTS (SELECT FROM before WHERE before.idle AND before.position = %(position)s)
FROM (VALUES (true)) AS always LEFT JOIN step ON true LEFT JOIN found ON true
