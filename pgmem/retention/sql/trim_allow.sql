-- Allow this transaction to remove events: the log's trigger compares the transaction id. So a setting
-- that is left behind in a session allows nothing later.
SELECT set_config('retention.trimming', pg_current_xact_id()::text, true)
