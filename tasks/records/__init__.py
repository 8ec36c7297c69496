"""MLflow: the connection, versions, runs, and what they show."""
