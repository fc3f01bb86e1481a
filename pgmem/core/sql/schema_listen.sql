-- Listen for the doorbell and, if the session has a mark (see `signal_mark`), for what is meant for
-- this process alone. The channel's name is a secret, and other roles can see the text of a
-- statement (pg_stat_activity): so the name is not in it.
DO $listen$
DECLARE
    doorbell text := (SELECT channel FROM {schema}.meta);
    mark text := current_setting('pgmem.mark', true);
BEGIN
    EXECUTE 'LISTEN ' || quote_ident(doorbell);
    IF mark <> '' THEN
        EXECUTE 'LISTEN ' || quote_ident(doorbell || '.' || mark);
    END IF;
END
$listen$
