-- The outcome of each payment, and how many payments need manual work.
WITH payment AS (
    SELECT payment_id, bool_or(fault LIKE 'invalid%%') AS invalid
    FROM pgmem_demo_bank.sendings WHERE run_id = %(run)s
    GROUP BY payment_id
),
outcome AS (
    SELECT payload ->> 'payment_id' AS payment_id,
           count(DISTINCT type) AS kinds, min(type) AS type
    FROM pgmem_demo.events WHERE stream = %(outcomes)s
    GROUP BY 1
),
told AS (
    SELECT payload ->> 'payment_id' AS payment_id, count(*) AS times,
           min(payload ->> 'outcome') AS outcome
    FROM pgmem_demo.events WHERE stream = %(notified)s
    GROUP BY 1
),
booking AS (
    SELECT payment_id, count(*) AS times FROM pgmem_demo_bank.ledger
    WHERE run_id = %(run)s GROUP BY payment_id
),
leg AS (
    SELECT payment_id, bool_or(believed <> actual) AS stale,
           bool_or(actual + change < 0) AS overdrawn
    FROM pgmem_demo_bank.legs WHERE run_id = %(run)s GROUP BY payment_id
),
record AS (
    SELECT substr(key, length(%(records)s) + 1) AS payment_id FROM pgmem_demo.dedupe
    WHERE kind = 'work' AND key >= %(records)s AND key < %(records)s || chr(1114111)
      AND completed_at IS NOT NULL
),
verdict AS (
    SELECT payment_id,
           outcome.kinds IS NULL OR told.times IS NULL AS no_end,
           coalesce(booking.times, 0) > 1 AS applied_twice,
           coalesce(outcome.kinds > 1, false)
               OR (booking.times > 0) IS TRUE
                   AND coalesce(outcome.type, 'payment.processed') <> 'payment.processed'
               OR outcome.type = 'payment.processed' AND booking.times IS NULL AS contradictory,
           coalesce(told.times > 1 OR told.outcome <> outcome.type, false) AS told_wrong,
           coalesce(leg.stale, false) AS stale,
           coalesce(leg.overdrawn, false) AS overdrawn,
           coalesce(payment.invalid, true) AND booking.times > 0 AS invalid_booked,
           booking.times > 0 AND record.payment_id IS NULL AS unrecorded
    FROM payment
    FULL JOIN booking USING (payment_id)
    FULL JOIN outcome USING (payment_id)
    FULL JOIN told USING (payment_id)
    LEFT JOIN leg USING (payment_id)
    LEFT JOIN record USING (payment_id)
)
SELECT count(*) FILTER (WHERE applied_twice) AS applied_twice,
       count(*) FILTER (WHERE no_end) AS without_end,
       count(*) FILTER (WHERE contradictory) AS contradictory,
       count(*) FILTER (WHERE told_wrong) AS told_wrong,
       count(*) FILTER (WHERE stale) AS booked_on_stale_balance,
       count(*) FILTER (WHERE overdrawn) AS overdrawn,
       count(*) FILTER (WHERE invalid_booked) AS invalid_booked,
       count(*) FILTER (WHERE unrecorded) AS booked_without_record,
       -- The result is wrong.
       count(*) FILTER (
           WHERE no_end OR applied_twice OR contradictory OR told_wrong OR overdrawn
              OR invalid_booked
       ) AS errors,
       -- Or the balances in the books were, for a while or for good.
       count(*) FILTER (
           WHERE no_end OR applied_twice OR contradictory OR told_wrong OR overdrawn
              OR invalid_booked OR stale
       ) AS manual_work
FROM verdict
