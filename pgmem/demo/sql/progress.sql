-- The progress of the run, for the display and to find its end.
WITH event AS (
    SELECT stream, type, position, payload ->> 'payment_id' AS payment_id
    FROM pgmem_demo.events
    WHERE stream IN (%(incoming)s, %(validated)s, %(outcomes)s, %(notified)s, %(operations)s)
),
reader (role, stream) AS (
    VALUES ('validator', %(incoming)s), ('processor', %(validated)s), ('notifier', %(outcomes)s)
),
backlog AS (
    SELECT reader.role, count(event.position) AS open
    FROM reader
    LEFT JOIN pgmem_demo.state ON state.key = %(positions)s || reader.role
    LEFT JOIN event ON event.stream = reader.stream
        AND event.position > coalesce((state.value ->> 'position')::bigint, 0)
    GROUP BY reader.role
)
SELECT (SELECT count(*) FROM pgmem_demo_bank.sendings WHERE run_id = %(run)s) AS sent,
       count(*) FILTER (WHERE stream = %(incoming)s) AS received,
       count(*) FILTER (WHERE type = 'payment.validated') AS validated,
       count(*) FILTER (WHERE type = 'payment.rejected') AS rejected,
       count(*) FILTER (WHERE type = 'payment.processed') AS processed,
       count(*) FILTER (WHERE type = 'payment.declined') AS declined,
       count(DISTINCT payment_id) FILTER (WHERE stream = %(notified)s) AS notified,
       count(*) FILTER (WHERE type = 'payment.conflict') AS conflicts,
       count(*) FILTER (WHERE type = 'payment.duplicate') AS duplicates,
       (SELECT open FROM backlog WHERE role = 'validator') AS validator_backlog,
       (SELECT open FROM backlog WHERE role = 'processor') AS processor_backlog,
       (SELECT open FROM backlog WHERE role = 'notifier') AS notifier_backlog
FROM event
