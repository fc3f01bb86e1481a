-- Read which history the log has now.
SELECT system_identifier, timeline FROM ({include history}) AS history
