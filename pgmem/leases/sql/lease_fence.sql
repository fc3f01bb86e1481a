-- Piece: the lease that fences a write, if owner, token and clock show that it is held. No other
-- process gets it before the write has committed: a takeover needs the row FOR UPDATE.
fence AS MATERIALIZED (
    SELECT name FROM {schema}.leases
    WHERE name = %(lease_name)s AND owner_id = %(lease_owner)s AND token = %(lease_token)s
      AND expires_at > clock_timestamp()
    FOR KEY SHARE
)
