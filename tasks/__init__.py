"""Each verb of medgan as a Prefect task: a name, a retry policy, one log line, an artifact."""
