-- How many events of a group's selection are final and not handed out.
SELECT (SELECT count(*) FROM {schema}.events
        WHERE position > held.position AND position <= %(until)s {filter})
FROM {schema}.groups AS held WHERE held.name = %(group)s
