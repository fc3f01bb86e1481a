-- Whether this role may apply retention.
SELECT has_function_privilege({table trim_events} || '(text, bigint[], boolean)', 'EXECUTE'),
       current_user::text
