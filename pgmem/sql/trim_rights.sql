-- Whether this role may do what retention does.
SELECT has_table_privilege({events}, 'DELETE')
       AND has_table_privilege({trim_marks}, 'INSERT') AND has_table_privilege({trim_marks}, 'UPDATE'),
       current_user::text
