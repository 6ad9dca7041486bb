"""One network as a graph: captured, walked for its symmetries, tapped by name, and run.

`network.py` has the graph itself; `execution.py` runs several weight sets on it in lockstep.
"""
