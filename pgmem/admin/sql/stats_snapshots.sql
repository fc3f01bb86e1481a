-- How many copies of the state and kept values of folds, in a share of each table's pages.
SELECT (SELECT count(*) FROM {schema}.state_snapshots TABLESAMPLE SYSTEM (%(states)s)),
       (SELECT count(*) FROM {schema}.fold_snapshots TABLESAMPLE SYSTEM (%(folds)s))
