-- Tell the trigger of the log that this transaction trims. The number of the transaction, so that
-- a setting which was left behind in a session allows nothing later.
SELECT set_config('retention.trimming', pg_current_xact_id()::text, true)
