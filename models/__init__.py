"""Example networks, data and training recipes: what the demo, the tests and the benchmarks merge.

Plain `nn.Module`s with the parameter names that published checkpoints use. Not a part of the wheel.
"""
