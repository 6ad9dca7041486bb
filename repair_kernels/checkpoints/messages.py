"""What is said of files that cannot be read or written."""

import re
from pathlib import Path

from repair_kernels.errors import CheckpointError


def unknown_suffix(path: Path, suffixes: tuple[str, ...], verb: str) -> CheckpointError:
    """Return the error of a file whose name does not tell its format."""
    return CheckpointError(
        f"expected a checkpoint to {verb} with one of the suffixes {', '.join(suffixes)}, but got "
        f"{path}; rename the file by its format"
    )


def unreadable(path: Path, error: Exception) -> CheckpointError:
    """Return the error of a file that is broken, or holds what could run code."""
    refused = re.search(r"(?:GLOBAL|Unsupported class) ([\w.]+)", str(error))
    if refused:
        return CheckpointError(
            f"expected {path} to hold tensors only, but it holds Python objects "
            f"({refused.group(1)}), which could run code and are never loaded; save the state dict "
            "alone: torch.save(model.state_dict(), path)"
        )
    kind = "checkpoint folder" if path.is_dir() else f"{path.suffix} file"
    return CheckpointError(
        f"expected {path} to be a whole {kind}, but reading it failed "
        f"({type(error).__name__}: {first_line(error)}); copy or save it again"
    )


def first_line(error: Exception) -> str:
    """Return the reason an error gives, without PyTorch's advice to run the file's code."""
    reason = str(error).rpartition("WeightsUnpickler error:")[2].strip()
    return re.split(r"\. In PyTorch|\n", reason)[0] or type(error).__name__
