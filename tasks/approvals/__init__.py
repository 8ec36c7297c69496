"""Who allowed what: the log, its transitions, and the audit."""
