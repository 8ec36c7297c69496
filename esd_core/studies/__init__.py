"""The paper's experiments, one file for each protocol; `protocols` is their table, `run` does one."""
