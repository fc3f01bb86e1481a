-- Make a step that imports nothing.
WITH {include import_step}
SELECT step.step, found.token, found.step, {commit}
FROM (VALUES (true)) AS always LEFT JOIN step ON true LEFT JOIN found ON true
