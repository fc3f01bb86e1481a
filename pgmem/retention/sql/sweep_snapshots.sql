-- Remove one snapshot of the state that exceeds its policy: the one of its name, or else the one for
-- all. The newest of each name stays. One at a time, because its entries are deleted with it.
WITH due AS MATERIALIZED (
    SELECT snapshot.id
    FROM (
        SELECT id, name, taken_at,
               row_number() OVER (PARTITION BY name ORDER BY id DESC) AS place
        FROM {schema}.state_snapshots
    ) AS snapshot
    JOIN {schema}.policies AS policy ON policy.kind = 'snapshots' AND policy.name = coalesce((
        SELECT own.name FROM {schema}.policies AS own
        WHERE own.kind = 'snapshots' AND own.name = snapshot.name
    ), '')
    WHERE snapshot.place > 1
      AND (snapshot.place > policy.max_count
           OR snapshot.taken_at < clock_timestamp() - make_interval(secs => policy.max_age))
    ORDER BY snapshot.id LIMIT 1
),
swept AS (
    DELETE FROM {schema}.state_snapshots WHERE id IN (SELECT id FROM due) RETURNING 1
)
SELECT count(*), {commit} FROM swept
