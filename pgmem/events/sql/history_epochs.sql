-- Read where each later timeline of a cluster forked off.
SELECT timeline, fork_lsn FROM {schema}.epochs
WHERE system_identifier = %(system_identifier)s AND timeline > %(timeline)s
ORDER BY timeline
