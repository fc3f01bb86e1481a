-- Hold the lease that the transaction is fenced by until it ends, if it is still held.
WITH {include lease_fence}
SELECT name FROM fence
