-- The notification channel. A role that may only read is not granted it.
SELECT channel FROM {schema}.meta
