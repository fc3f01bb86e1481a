-- Listen for the doorbell. The channel's name is a secret, and other roles can see the text of a
-- statement (pg_stat_activity): so the name is not in it.
DO $listen$
BEGIN
    EXECUTE 'LISTEN ' || quote_ident((SELECT channel FROM {schema}.meta));
END
$listen$
