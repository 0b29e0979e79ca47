"""One attempt of one step: thin, safe to cancel, leaving nothing behind. Workflows know these only as steps."""
