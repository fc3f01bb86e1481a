-- Keep writers out until the transaction ends, because positions are assigned by hand.
LOCK TABLE {schema}.events IN SHARE ROW EXCLUSIVE MODE
