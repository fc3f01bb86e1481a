-- Note that a member handles a batch of one event with no other handler beside it.
UPDATE {schema}.batches SET alone = true
WHERE group_name = %(group)s AND id = %(batch)s AND token = %(token)s
RETURNING {commit}
