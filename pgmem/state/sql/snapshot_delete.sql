-- Delete one snapshot with its entries.
WITH deleted AS (
    DELETE FROM {schema}.state_snapshots WHERE id = %(id)s RETURNING id
)
SELECT count(*), {commit} FROM deleted
