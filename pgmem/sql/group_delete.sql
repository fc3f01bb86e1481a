-- Forget a group, with its position, what is open in it, and its dead letters.
WITH gone AS (
    DELETE FROM {schema}.groups WHERE name = %(group)s RETURNING name
),
slots AS (DELETE FROM {schema}.deliveries WHERE group_name = %(group)s),
waiting AS (DELETE FROM {schema}.parked WHERE group_name = %(group)s),
buried AS (DELETE FROM {schema}.dead_letters WHERE group_name = %(group)s)
SELECT name, {commit} FROM gone
