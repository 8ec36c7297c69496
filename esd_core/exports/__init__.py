"""Edited weights in the formats that other programs load, and theirs in ours: one file for each format.

Base weights are read from their files tensor by tensor, in the precision they are stored in, and written the same way:
an export needs the memory of a few tensors, not of a model.
"""
