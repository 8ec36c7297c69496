"""One file per group of `esd` commands: each has `add(commands)` for its options and imports the rest when it runs."""
