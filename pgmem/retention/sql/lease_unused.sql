-- Piece: a lease that had neither a holder nor a waiter for long.
greatest(acquired_at, expires_at) <= clock_timestamp() - make_interval(secs => %(idle)s)
      AND NOT EXISTS (
          SELECT FROM jsonb_array_elements(waiters) AS waiter (entry)
          WHERE (entry ->> 'until')::float8 > extract(epoch FROM clock_timestamp())::float8
      )
