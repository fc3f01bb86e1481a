-- Keep writers out until the transaction ends: positions are about to be given out by hand.
LOCK TABLE {schema}.events IN SHARE ROW EXCLUSIVE MODE
