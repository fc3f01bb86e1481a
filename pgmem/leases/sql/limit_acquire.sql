-- Take from a rate limit (generic cell rate algorithm): one moment for each limit, the theoretical
-- arrival time of the next call. A call that does not fit writes nothing.
WITH moment AS MATERIALIZED (
    SELECT clock_timestamp() AS now, make_interval(secs => %(cost)s) AS cost,
           make_interval(secs => %(burst)s) AS burst
),
passed AS (
    INSERT INTO {schema}.limits AS held (name, arrival)
    SELECT %(name)s, moment.now + moment.cost FROM moment
    WHERE NOT EXISTS (
        SELECT FROM {schema}.limits AS reached
        WHERE reached.name = %(name)s AND reached.arrival + moment.cost > moment.now + moment.burst)
    ON CONFLICT (name) DO UPDATE
        SET arrival = greatest(held.arrival, (SELECT now FROM moment))
                      + (SELECT cost FROM moment)
        WHERE greatest(held.arrival, (SELECT now FROM moment)) + (SELECT cost FROM moment)
              <= (SELECT now + burst FROM moment)
    RETURNING arrival
)
SELECT passed.arrival IS NOT NULL,
       extract(epoch FROM coalesce(passed.arrival, current.arrival) - moment.now)::float8,
       {commit}
FROM moment
LEFT JOIN passed ON true
LEFT JOIN {schema}.limits AS current ON passed.arrival IS NULL AND current.name = %(name)s
