-- Read the event at a position.
SELECT {include event_columns}
FROM {schema}.events WHERE position = %(position)s
