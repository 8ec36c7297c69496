"""A second world to train a base model on: other shapes, painters, places and sentences; snow comes unasked."""
