-- The number of sessions, and the used part of the notification queue. A session with a role is a
-- user's: the type of another role's session is hidden, its role and name are not.
SELECT count(*), current_setting('max_connections')::int,
       count(*) FILTER (WHERE datname = current_database()),
       count(*) FILTER (WHERE datname = current_database()
                          AND application_name IN ('pgmem', 'pgmem listener')),
       count(*) FILTER (WHERE datname = current_database()
                          AND application_name = 'pgmem listener'),
       pg_notification_queue_usage()
FROM pg_catalog.pg_stat_activity
WHERE usesysid IS NOT NULL AND datname IS NOT NULL
