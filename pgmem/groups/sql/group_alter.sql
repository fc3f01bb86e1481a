-- Change the options of a group. Members notice the revision at their next claim.
WITH altered AS (
    UPDATE {schema}.groups AS held
    SET max_attempts = coalesce(%(max_attempts)s, held.max_attempts),
        filter = coalesce(%(selection)s::json, held.filter),
        retry = coalesce(%(retry)s::json, held.retry),
        revision = held.revision + 1
    WHERE held.name = %(group)s
    RETURNING held.revision
),
target AS (SELECT {include group_target} AS payload FROM altered)
SELECT altered.revision, {commit}, {notify_target} FROM altered CROSS JOIN target
