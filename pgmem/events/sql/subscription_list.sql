-- List the subscriptions and their distance from the head. It also counts positions that were
-- drawn and rolled back, so the lag is not a number of events.
SELECT name, position,
       greatest(0, {include event_head} - position),
       owner, expires_at, created_at, updated_at
FROM {schema}.subscriptions {filter} ORDER BY name
