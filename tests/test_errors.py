"""The family of errors."""

from repair_kernels.errors import (
    ArchitectureMismatchError,
    ArgumentError,
    CalibrationDataError,
    CheckpointError,
    CompilationError,
    FunctionChangedError,
    GraphCaptureError,
    InsufficientMemoryError,
    NonFiniteActivationError,
    NonFiniteWeightError,
    RepairKernelsError,
    StatisticsMismatchError,
)


def test_every_error_is_also_the_builtin_that_fits() -> None:
    assert issubclass(InsufficientMemoryError, MemoryError)
    assert issubclass(InsufficientMemoryError, RepairKernelsError)
    for error in (GraphCaptureError, CompilationError, FunctionChangedError):
        assert issubclass(error, RuntimeError)
        assert issubclass(error, RepairKernelsError)
    for error in (
        ArgumentError,
        ArchitectureMismatchError,
        CalibrationDataError,
        CheckpointError,
        NonFiniteActivationError,
        NonFiniteWeightError,
        StatisticsMismatchError,
    ):
        assert issubclass(error, ValueError)
        assert issubclass(error, RepairKernelsError)
