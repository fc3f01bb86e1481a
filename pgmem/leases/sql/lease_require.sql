-- Whether a lease is held. If it is, no other process gets it before this transaction ends.
WITH {include lease_fence}
SELECT EXISTS (SELECT FROM fence)
