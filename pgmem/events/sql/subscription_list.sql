-- Who follows the log, and how far behind its head. Positions that were drawn and rolled back
-- count too: the lag is a measure, not a number of events.
SELECT name, position,
       greatest(0, {include event_head} - position),
       owner, expires_at, created_at, updated_at
FROM {schema}.subscriptions {filter} ORDER BY name
