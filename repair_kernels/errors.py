"""The package's exceptions: one base, and under it one class per kind of failure.

Each also derives from the fitting builtin, so that code which knows nothing of this package can
catch `ValueError` or `RuntimeError` as usual. A message says what was expected, what came, and what
to do.
"""


class RepairKernelsError(Exception):
    """Base of every error that this package raises on purpose."""


class ArgumentError(RepairKernelsError, ValueError):
    """An argument has a value that is not allowed: an unknown tap or variant, an alpha below 0."""


class ArchitectureMismatchError(RepairKernelsError, ValueError):
    """Two networks, or a network and a checkpoint, are not of one architecture."""


class StatisticsMismatchError(RepairKernelsError, ValueError):
    """Statistics cannot be merged: of other networks or data, or of images counted already."""


class NonFiniteWeightError(RepairKernelsError, ValueError):
    """A parameter or buffer of a network holds NaN or infinity."""


class NonFiniteActivationError(RepairKernelsError, ValueError):
    """An activation holds NaN or infinity; the message names the network, the tap and the batch."""


class CalibrationDataError(RepairKernelsError, ValueError):
    """The data cannot serve: no batches, too few samples, a wrong shape, a spent iterator."""


class CalibrationWarning(UserWarning):
    """A calibration is doubtful: it made the loss worse, or data are too few or of one class."""


class EmptyDataError(CalibrationDataError):
    """There is no batch, or no image in any batch."""


class CheckpointError(RepairKernelsError, ValueError):
    """A file is missing, broken, hostile, or not a state dict."""


class GraphCaptureError(RepairKernelsError, RuntimeError):
    """`torch.export` could not capture the model."""


class CompilationError(RepairKernelsError, RuntimeError):
    """`torch.compile` could not compile the networks on this machine."""


class InsufficientMemoryError(RepairKernelsError, MemoryError):
    """What is asked for does not fit into the memory of the device or the host."""


class MissingExtraError(RepairKernelsError, ImportError):
    """An optional dependency is not installed."""


class RankError(RepairKernelsError, RuntimeError):
    """This process was stopped by what happened in another one of its process group."""


class FailedRankError(RankError):
    """Another process of the group raised an error; the message says which, and what."""


class LostRankError(RankError):
    """Another process of the group was ended, or did not answer in time."""


class FunctionChangedError(RepairKernelsError, RuntimeError):
    """A permuted network computes something else: a derived permutation group is wrong.

    Attributes:
        deviation: largest difference, relative to the largest value
        tap: the first tap that differs; None where it is the network's output
    """

    def __init__(self, message: str, *, deviation: float = float("nan"), tap: str | None = None):
        super().__init__(message)
        self.deviation = deviation
        self.tap = tap
