"""Compiled kernels, read without a GPU: what is launched, its machine code, its occupancy."""
