"""The night: what is to be done, done, settled and shown."""
