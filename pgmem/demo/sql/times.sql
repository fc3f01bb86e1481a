-- Times from the arrival of a payment to its notification, by the server's clock.
WITH arrived AS (
    SELECT payload ->> 'id' AS payment_id, min(recorded_at) AS at
    FROM pgmem_demo.events WHERE stream = %(incoming)s GROUP BY 1
),
told AS (
    SELECT payload ->> 'payment_id' AS payment_id, min(recorded_at) AS at
    FROM pgmem_demo.events WHERE stream = %(notified)s GROUP BY 1
),
latency AS (
    SELECT 1000 * extract(epoch FROM told.at - arrived.at)::float8 AS ms,
           arrived.at AS arrived, told.at AS told
    FROM arrived JOIN told USING (payment_id)
)
SELECT avg(ms) AS latency_mean_ms,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY ms) AS latency_p50_ms,
       percentile_cont(0.95) WITHIN GROUP (ORDER BY ms) AS latency_p95_ms,
       percentile_cont(0.99) WITHIN GROUP (ORDER BY ms) AS latency_p99_ms,
       extract(epoch FROM max(told) - min(arrived))::float8 AS seconds,
       (count(*) / nullif(extract(epoch FROM max(told) - min(arrived)), 0))::float8
           AS payments_per_second
FROM latency
