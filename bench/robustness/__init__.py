"""Damaged files for the readers, and commands that are killed: what fuzz and soak are made of."""
