-- Raise the head to the last position of a file. The transaction keeps writers out, so that no
-- position is drawn meanwhile.
SELECT setval({sequence}, greatest({include event_head}, %(last)s))
