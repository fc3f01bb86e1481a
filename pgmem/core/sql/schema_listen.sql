-- Listen on the schema's channel and, if the session has an id (see `listener_register`), on the
-- channel of this process. The channel's name is a secret and other roles can see the text of a
-- statement (pg_stat_activity), so the name is read here.
DO $listen$
DECLARE
    channel text := (SELECT meta.channel FROM {schema}.meta);
    listener_id text := current_setting('pgmem.listener_id', true);
BEGIN
    EXECUTE 'LISTEN ' || quote_ident(channel);
    IF listener_id <> '' THEN
        EXECUTE 'LISTEN ' || quote_ident(channel || '.' || listener_id);
    END IF;
END
$listen$
