"""The policies of retention, and what it has removed."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Double,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    text,
)

from pgmem.admin.tables.columns import after_create, moment, name_column, now
from pgmem.core.names import STREAM_BYTES


def policies(metadata: MetaData) -> Table:
    """Build the table of policies: of one stream, fold or kind of snapshot, or ('') of all."""
    return Table(
        "policies",
        metadata,
        Column("kind", name_column(), nullable=False),
        Column("name", name_column(), nullable=False),
        Column("max_count", BigInteger),
        Column("max_age", Double),  # seconds
        Column("updated_at", moment(), nullable=False, server_default=now()),
        PrimaryKeyConstraint("kind", "name", name="policies_pkey"),
        CheckConstraint("kind IN ('events', 'folds', 'snapshots')", name="policies_kind_known"),
        CheckConstraint(f"octet_length(name) <= {STREAM_BYTES}", name="policies_name_length"),
        CheckConstraint("max_count > 0", name="policies_max_count_positive"),
        CheckConstraint("max_age > 0", name="policies_max_age_positive"),
        CheckConstraint(
            "max_count IS NOT NULL OR max_age IS NOT NULL", name="policies_says_something"
        ),
    )


def trimmed(metadata: MetaData) -> Table:
    """Build the table of trims: the last removed position of a stream, or ('') of the log."""
    table = Table(
        "trimmed",
        metadata,
        Column("stream", name_column(), nullable=False),
        Column("position", BigInteger, nullable=False),
        Column("trimmed_at", moment(), nullable=False, server_default=now()),
        Column("removed", BigInteger, nullable=False, server_default=text("0")),
        PrimaryKeyConstraint("stream", name="trimmed_pkey"),
        CheckConstraint(f"octet_length(stream) <= {STREAM_BYTES}", name="trimmed_stream_length"),
        CheckConstraint("position > 0", name="trimmed_position_positive"),
    )
    schema = f'"{metadata.schema}"'
    after_create(table, _TRIM_EVENTS.replace("{schema}", schema))
    after_create(
        table, f"REVOKE ALL ON FUNCTION {schema}.trim_events(text, bigint[], boolean) FROM PUBLIC"
    )
    return table


_TRIM_EVENTS = """CREATE FUNCTION {schema}.trim_events(
    log_stream text, candidates bigint[], forced boolean,
    OUT number bigint, OUT first bigint, OUT last bigint,
    OUT position_before bigint, OUT removed_before bigint
) RETURNS SETOF record
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_column
BEGIN
    PERFORM set_config('retention.trimming', pg_current_xact_id()::text, true);
    RETURN QUERY
    WITH open AS MATERIALIZED (
        SELECT unnest(positions || prefetched) AS position FROM {schema}.batches
        UNION ALL SELECT delayed.position FROM {schema}.delayed
        UNION ALL SELECT dead_letters.position FROM {schema}.dead_letters
    ),
    slowest AS MATERIALIZED (
        SELECT reader.position FROM (
            SELECT subscriptions.position, filter::jsonb AS wanted FROM {schema}.subscriptions
            UNION ALL SELECT groups.position, filter::jsonb FROM {schema}.groups
        ) AS reader
        WHERE log_stream = ''
           OR (coalesce(wanted -> 'streams' ? log_stream, true)
               AND coalesce(starts_with(log_stream, wanted ->> 'prefix'), true))
        ORDER BY reader.position LIMIT 1
    ),
    gone AS (
        DELETE FROM {schema}.events AS event
        WHERE event.position = ANY (candidates)
          AND (log_stream = '' OR event.stream = log_stream)
          AND (forced OR event.position <= coalesce((SELECT slowest.position FROM slowest),
                                                    event.position))
          AND event.position NOT IN (SELECT open.position FROM open)
          AND (event.stream_version IS NULL OR event.state_key IS NOT NULL OR EXISTS (
                  SELECT FROM {schema}.events AS later
                  WHERE later.stream = event.stream AND later.stream_version > event.stream_version
                    AND later.stream_version IS NOT NULL AND later.state_key IS NULL))
        RETURNING event.position
    ),
    total AS MATERIALIZED (
        SELECT count(*) AS number, min(gone.position) AS first, max(gone.position) AS last
        FROM gone
    ),
    low_water AS (
        INSERT INTO {schema}.trimmed AS held (stream, position, trimmed_at, removed)
        SELECT log_stream, total.last, 'infinity', total.number FROM total WHERE total.number > 0
        ON CONFLICT (stream) DO UPDATE
            SET position = greatest(held.position, excluded.position),
                trimmed_at = excluded.trimmed_at, removed = held.removed + excluded.removed
    )
    SELECT total.number, total.first, total.last, earlier.position, earlier.removed
    FROM total LEFT JOIN {schema}.trimmed AS earlier ON earlier.stream = log_stream;
    PERFORM set_config('retention.trimming', '', true);
END
$function$"""
"""The function by which a janitor removes events. Its rights are those of the schema's owner."""
