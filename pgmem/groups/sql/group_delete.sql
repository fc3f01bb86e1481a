-- Delete a group with its position, its open events and its dead letters. A deletion that waited for
-- a claim does not see what the claim handed out, so it must start again.
WITH before AS MATERIALIZED (
    SELECT held.xmin::text AS seen FROM {schema}.groups AS held WHERE held.name = %(group)s
),
locked AS MATERIALIZED (
    SELECT held.xmin::text AS seen FROM {schema}.groups AS held
    WHERE held.name = %(group)s FOR UPDATE
),
allowed AS MATERIALIZED (SELECT FROM locked JOIN before ON before.seen = locked.seen),
gone AS (
    DELETE FROM {schema}.groups WHERE name = %(group)s AND EXISTS (SELECT FROM allowed)
),
deleted_batches AS (
    DELETE FROM {schema}.batches
    WHERE group_name = %(group)s AND EXISTS (SELECT FROM allowed)
),
waiting AS (
    DELETE FROM {schema}.delayed WHERE group_name = %(group)s AND EXISTS (SELECT FROM allowed)
),
dead_lettered AS (
    DELETE FROM {schema}.dead_letters
    WHERE group_name = %(group)s AND EXISTS (SELECT FROM allowed)
)
SELECT EXISTS (SELECT FROM allowed), EXISTS (SELECT FROM before), {commit}
