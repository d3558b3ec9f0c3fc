"""The same table three times: what PostgreSQL committed, what the log holds, what the archive holds."""
