-- Whether this role may do what retention does.
SELECT has_table_privilege({events}, 'DELETE')
       AND has_table_privilege({table trimmed}, 'INSERT') AND has_table_privilege({table trimmed}, 'UPDATE'),
       current_user::text
