-- Read the last position of the log and of its sequence. Logical replication carries no sequences.
SELECT greatest(
           (SELECT max(position) FROM {schema}.events),
           (SELECT max(position) FROM {schema}.trimmed)
       ),
       coalesce(pg_sequence_last_value({sequence}), 0),
       pg_is_in_recovery()
