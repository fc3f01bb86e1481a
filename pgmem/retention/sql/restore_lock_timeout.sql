-- Limit how long this transaction waits for a lock. Every writer queues behind a lock that waits.
SELECT set_config('lock_timeout', '1000', true)
