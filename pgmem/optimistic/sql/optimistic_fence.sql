-- Undo the transaction unless a lease is held. If it is, no other process gets it before the end.
WITH {include lease_fence}
SELECT CASE WHEN NOT EXISTS (SELECT FROM fence) THEN {schema}.refuse_commit() END
