-- Make the room of dead rows usable again. Not while another vacuum of the table runs, and without
-- giving room back to the system: for that it would keep writers out.
VACUUM (SKIP_LOCKED, TRUNCATE false) {schema}.{vacuumed}
