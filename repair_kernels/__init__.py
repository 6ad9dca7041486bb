"""Merge networks of one architecture in weight space: match, permute, interpolate, and REPAIR.

`__all__` lists the names in the order of the work. Letters for dimensions, here and in all
docstrings: `n` samples (images x positions), `c` channels (`c_a` and `c_b` of the two networks),
`h w` space, `k` taps.
"""

from repair_kernels import errors
from repair_kernels.affine import ChannelAffine
from repair_kernels.balancing import BalanceReport, BalanceResult, balance
from repair_kernels.calibration.calibrating import calibrate
from repair_kernels.calibration.explicit import load_merged
from repair_kernels.checkpoints import load_metadata, load_state_dict, save_state_dict
from repair_kernels.evaluation import Path
from repair_kernels.graph.network import NetworkGraph, trace
from repair_kernels.graph.permutation import Permutation, permute
from repair_kernels.graph.symmetry import PermutationGroup
from repair_kernels.graph.symmetry_report import SymmetryReport
from repair_kernels.interpolation import interpolate
from repair_kernels.matching.matching import match
from repair_kernels.metrics import classifier_metrics
from repair_kernels.moments import ChannelMoments, PairedMoments
from repair_kernels.pipeline import repair, sweep
from repair_kernels.repair_report import RepairReport, RepairResult
from repair_kernels.rules import register_rule
from repair_kernels.statistics.collecting import compute_stats
from repair_kernels.statistics.paired_stats import PairedStats
from repair_kernels.statistics.parts import merge_files
from repair_kernels.statistics.resuming import Checkpointing
from repair_kernels.version import __version__

__all__ = [
    "compute_stats",
    "Checkpointing",
    "PairedStats",
    "merge_files",
    "PairedMoments",
    "ChannelMoments",
    "trace",
    "NetworkGraph",
    "PermutationGroup",
    "SymmetryReport",
    "register_rule",
    "match",
    "Permutation",
    "permute",
    "balance",
    "BalanceResult",
    "BalanceReport",
    "interpolate",
    "calibrate",
    "ChannelAffine",
    "repair",
    "RepairResult",
    "RepairReport",
    "sweep",
    "Path",
    "classifier_metrics",
    "load_state_dict",
    "load_metadata",
    "save_state_dict",
    "load_merged",
    "errors",
    "__version__",
]
