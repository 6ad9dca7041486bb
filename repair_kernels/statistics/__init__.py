"""Statistics of two networks: collected in a pass that may be killed, merged, kept in files.

`collecting.py` has the pass, `paired_stats.py` what comes of it.
"""
