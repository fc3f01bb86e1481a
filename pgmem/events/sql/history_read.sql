-- Read which history the log has now. The first session that finds a timeline stores it.
SELECT system_identifier, timeline,
       CASE WHEN timeline IS NOT NULL AND NOT EXISTS (
           SELECT FROM {schema}.epochs AS known
           WHERE known.system_identifier = history.system_identifier
             AND known.timeline = history.timeline
       ) THEN {schema}.begin_epoch() END
FROM ({include history}) AS history
