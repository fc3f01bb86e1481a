-- Remove snapshots of folds that exceed their policy: the one of the fold, or else the one for all.
-- The newest snapshot of each version of a fold stays.
WITH due AS MATERIALIZED (
    SELECT fold.name, fold.fold_version, fold.position
    FROM (
        SELECT name, fold_version, position, taken_at,
               row_number() OVER (PARTITION BY name, fold_version ORDER BY position DESC) AS place
        FROM {schema}.fold_snapshots
    ) AS fold
    JOIN {schema}.policies AS policy ON policy.kind = 'folds' AND policy.name = coalesce((
        SELECT own.name FROM {schema}.policies AS own
        WHERE own.kind = 'folds' AND own.name = fold.name
    ), '')
    WHERE fold.place > 1
      AND (fold.place > policy.max_count
           OR fold.taken_at < clock_timestamp() - make_interval(secs => policy.max_age))
    LIMIT %(limit)s
),
swept AS (
    DELETE FROM {schema}.fold_snapshots AS fold USING due
    WHERE fold.name = due.name AND fold.fold_version = due.fold_version
      AND fold.position = due.position
    RETURNING 1
)
SELECT count(*), {commit} FROM swept
