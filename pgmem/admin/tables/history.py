"""The histories that the log has had: the cluster and each timeline of it."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, MetaData, PrimaryKeyConstraint, Table

from pgmem.admin.tables.columns import after_create, moment, now


def epochs(metadata: MetaData) -> Table:
    """Build the table of epochs: one row for each timeline that the log has been on."""
    table = Table(
        "epochs",
        metadata,
        Column("system_identifier", BigInteger, nullable=False, autoincrement=False),
        Column("timeline", Integer, nullable=False, autoincrement=False),
        # Where the promoted server ended its replay, as a number. NULL: it had restarted since.
        Column("fork_lsn", BigInteger),
        # The highest position that was drawn when the first session found the timeline.
        Column("head", BigInteger, nullable=False),
        # Fencing tokens of this epoch are above it; 0 in the first one.
        Column("token_floor", BigInteger, nullable=False),
        Column("began_at", moment(), nullable=False, server_default=now()),
        PrimaryKeyConstraint("system_identifier", "timeline", name="epochs_pkey"),
    )
    after_create(table, _begin_epoch(f'"{metadata.schema}"'))
    return table


def _begin_epoch(schema: str) -> str:
    """Build the function that stores the present timeline, and raises the token sequences."""
    return f"""CREATE FUNCTION {schema}.begin_epoch() RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    counter text;
    floor bigint := 0;
BEGIN
    IF pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on' THEN
        RETURN false;
    END IF;
    PERFORM set_config('synchronous_commit', 'local', true);
    INSERT INTO {schema}.epochs (system_identifier, timeline, fork_lsn, head, token_floor)
    SELECT system_identifier,
           ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::integer,
           (pg_last_wal_replay_lsn() - '0/0')::bigint,
           coalesce(pg_sequence_last_value('{schema}.events_position_seq'), 0), 0
    FROM pg_control_system()
    ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF (SELECT count(*) FROM {schema}.epochs) > 1 THEN
        SELECT greatest(max(timeline), max(coalesce(last_value >> 40, 0)) + 1) << 40 INTO floor
        FROM {schema}.epochs CROSS JOIN (VALUES
            (pg_sequence_last_value('{schema}.dedupe_token_seq')),
            (pg_sequence_last_value('{schema}.subscriptions_token_seq')),
            (pg_sequence_last_value('{schema}.batches_token_seq')),
            (pg_sequence_last_value('{schema}.leases_token_seq'))
        ) AS counters (last_value);
        FOREACH counter IN ARRAY ARRAY['dedupe', 'subscriptions', 'batches', 'leases'] LOOP
            PERFORM setval(('{schema}.' || counter || '_token_seq')::regclass, floor);
        END LOOP;
        UPDATE {schema}.epochs SET token_floor = floor
        WHERE (system_identifier, timeline) = (
            SELECT system_identifier,
                   ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::integer
            FROM pg_control_system());
    END IF;
    RETURN true;
END
$function$"""  # noqa: S608  # the schema's name is checked
