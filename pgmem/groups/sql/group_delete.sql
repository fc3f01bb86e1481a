-- Forget a group, with its position, what is open in it, and its dead letters. Who has waited for
-- one that hands something out does not see it: he must begin anew.
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
slots AS (
    DELETE FROM {schema}.batches
    WHERE group_name = %(group)s AND EXISTS (SELECT FROM allowed)
),
waiting AS (
    DELETE FROM {schema}.delayed WHERE group_name = %(group)s AND EXISTS (SELECT FROM allowed)
),
buried AS (
    DELETE FROM {schema}.dead_letters
    WHERE group_name = %(group)s AND EXISTS (SELECT FROM allowed)
)
SELECT EXISTS (SELECT FROM allowed), EXISTS (SELECT FROM before), {commit}
