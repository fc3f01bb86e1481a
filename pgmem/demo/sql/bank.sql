-- The demo's own tables beside pgmem's. They stand for the ledger of an application.
-- Each statement can run again. The caller holds a lock, so two demos may start at once.
CREATE SCHEMA IF NOT EXISTS pgmem_demo_bank;

CREATE TABLE IF NOT EXISTS pgmem_demo_bank.runs (
    run_id text PRIMARY KEY,
    mode text NOT NULL,
    seed bigint NOT NULL,
    payments integer NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE IF NOT EXISTS pgmem_demo_bank.accounts (
    run_id text NOT NULL,
    account text NOT NULL,
    opening bigint NOT NULL,
    PRIMARY KEY (run_id, account)
);

-- What the gateway sent, retries included. pgmem keeps no row of an append that it ignored.
CREATE TABLE IF NOT EXISTS pgmem_demo_bank.sendings (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id text NOT NULL,
    request_id text NOT NULL,
    payment_id text NOT NULL,
    fault text NOT NULL,
    sent_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX IF NOT EXISTS sendings_run_idx ON pgmem_demo_bank.sendings (run_id, payment_id);

-- The money that moved. payment_id is not unique on purpose: the summary must be able to find a
-- payment that was applied twice.
CREATE TABLE IF NOT EXISTS pgmem_demo_bank.ledger (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id text NOT NULL,
    payment_id text NOT NULL,
    sender text NOT NULL,
    receiver text NOT NULL,
    amount bigint NOT NULL,
    sender_before bigint NOT NULL,
    receiver_before bigint NOT NULL,
    booked_by text NOT NULL,
    booked_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX IF NOT EXISTS ledger_run_idx ON pgmem_demo_bank.ledger (run_id, payment_id);

-- Both sides of each booking, with the balance that the agent assumed and the one that follows
-- from the ledger.
CREATE OR REPLACE VIEW pgmem_demo_bank.legs AS
WITH leg AS (
    SELECT id, run_id, payment_id, sender AS account, -amount AS change, sender_before AS believed
    FROM pgmem_demo_bank.ledger
    UNION ALL
    SELECT id, run_id, payment_id, receiver, amount, receiver_before
    FROM pgmem_demo_bank.ledger
)
SELECT leg.*,
       (coalesce(account.opening, 0) + sum(change) OVER earlier - change)::bigint AS actual
FROM leg
LEFT JOIN pgmem_demo_bank.accounts AS account USING (run_id, account)
WINDOW earlier AS (PARTITION BY leg.run_id, leg.account ORDER BY leg.id);
