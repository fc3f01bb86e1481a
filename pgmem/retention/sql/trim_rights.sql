-- Whether this role may apply retention.
SELECT has_table_privilege({events}, 'DELETE')
       AND has_table_privilege({table trimmed}, 'INSERT')
       AND has_table_privilege({table trimmed}, 'UPDATE'),
       current_user::text
