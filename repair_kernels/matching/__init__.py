"""Matching: which channel of network b plays the part of which channel of network a.

`matching.py` puts it together; `activations.py` and `weights.py` say how alike two channels are,
`assignment.py` pairs them.
"""
