-- The notification channel, and whether small events travel in notifications. A role that may only
-- read is not granted it.
SELECT channel, inline FROM {schema}.meta
