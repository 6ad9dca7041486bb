"""REPAIR: goals, the ways to reach them, and what was reached, for a pair of aligned networks.

`calibrating.py` puts them together; `variants.py` has the ways.
"""
