-- Notify the session itself, to see that notifications arrive on its connection. A full queue would
-- refuse the commit.
SELECT CASE WHEN pg_catalog.pg_notification_queue_usage() <= 0.5::float8
       THEN pg_catalog.pg_notify(%(channel)s || '.' || %(listener_id)s::text, %(payload)s) END
