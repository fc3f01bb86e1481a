-- Make the space of dead rows usable again. Skip the table if another vacuum runs, and do not give
-- space back to the system, which would lock out writers.
VACUUM (SKIP_LOCKED, TRUNCATE false) {schema}.{vacuumed}
