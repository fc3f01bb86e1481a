-- Counts of sendings, events, conflicts, duplicates and invalid payments.
WITH sending AS (
    SELECT * FROM pgmem_demo_bank.sendings WHERE run_id = %(run)s
),
event AS (
    SELECT type, stream, payload ->> 'payment_id' AS payment_id,
           payload ->> 'request_id' AS request_id
    FROM pgmem_demo.events
    WHERE stream IN (%(incoming)s, %(validated)s, %(outcomes)s, %(notified)s, %(operations)s)
),
ended AS (
    SELECT DISTINCT payment_id FROM event WHERE stream = %(outcomes)s
),
conflict AS (
    SELECT event.payment_id, ended.payment_id IS NOT NULL AS resolved
    FROM event LEFT JOIN ended USING (payment_id)
    WHERE event.type = 'payment.conflict'
)
SELECT (SELECT count(DISTINCT payment_id) FROM sending) AS payments,
       (SELECT count(*) FROM sending) AS requests_sent,
       (SELECT count(*) FROM event)
           + (SELECT count(*) FROM pgmem_demo.events
              WHERE stream >= 'state:' || %(accounts)s
                AND stream < 'state:' || %(accounts)s || chr(1114111)) AS events,
       (SELECT count(*) FROM conflict) AS conflicts,
       (SELECT count(*) FROM conflict WHERE resolved) AS conflicts_resolved,
       -- Sent, and no event of it: refused by the idempotency key.
       (SELECT count(*) FROM sending)
           - (SELECT count(*) FROM event WHERE stream = %(incoming)s) AS duplicates_at_append,
       -- By request: one that was refused and then delivered again is refused again.
       (SELECT count(DISTINCT request_id) FROM event WHERE type = 'payment.duplicate')
           AS duplicates_at_work,
       (SELECT count(*) FROM event WHERE type = 'payment.redelivered') AS redelivered,
       (SELECT count(DISTINCT payment_id) FROM event WHERE type = 'payment.rejected')
           AS invalid_refused,
       (SELECT count(DISTINCT payment_id) FROM event WHERE type = 'payment.declined') AS declined,
       (SELECT count(DISTINCT payment_id) FROM pgmem_demo_bank.ledger WHERE run_id = %(run)s)
           AS booked
