-- Piece: the lease that a write is fenced by, if it is still ours by owner, token and clock. Until
-- the write has committed nobody else can have it: a takeover needs the row FOR UPDATE.
fence AS MATERIALIZED (
    SELECT name FROM {schema}.leases
    WHERE name = %(lease_name)s AND owner = %(lease_owner)s AND token = %(lease_token)s
      AND expires_at > clock_timestamp()
    FOR KEY SHARE
)
