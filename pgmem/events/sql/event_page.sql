-- Read a page of the log forwards. One statement, so one snapshot: what retention removes between
-- the row in front and the events cannot go unnoticed.
({include event_page_head})
UNION ALL
(SELECT {include event_columns}
 FROM {schema}.events
 WHERE position > %(after)s AND position <= %(until)s {filter}
 ORDER BY position
 LIMIT %(limit)s)
