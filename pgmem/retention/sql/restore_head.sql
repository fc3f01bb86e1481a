-- Positions up to that of the last event of a file are taken. In a transaction that keeps writers
-- out, so that none is drawn meanwhile.
SELECT setval({sequence}, greatest({include event_head}, %(last)s))
