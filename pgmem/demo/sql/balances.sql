-- Compares opening balances and ledger with the state in pgmem.
WITH moved AS (
    SELECT account, sum(change) AS change FROM pgmem_demo_bank.legs
    WHERE run_id = %(run)s GROUP BY account
),
state AS (
    SELECT substr(key, length(%(accounts)s) + 1) AS account,
           (value ->> 'balance')::bigint AS balance
    FROM pgmem_demo.state
    WHERE key >= %(accounts)s AND key < %(accounts)s || chr(1114111)
),
account AS (
    SELECT coalesce(opening, 0) AS opening, state.balance, coalesce(moved.change, 0) AS change
    FROM (SELECT * FROM pgmem_demo_bank.accounts WHERE run_id = %(run)s) AS opened
    FULL JOIN state USING (account)
    FULL JOIN moved USING (account)
)
SELECT count(*) AS accounts,
       count(*) FILTER (WHERE balance IS DISTINCT FROM opening + change) AS balances_off,
       (coalesce(sum(balance), 0) - sum(opening))::bigint AS money_difference
FROM account
