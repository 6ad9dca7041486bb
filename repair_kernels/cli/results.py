"""What a command has to say: text for people, or JSON for programs, on standard output."""

import argparse
import dataclasses
import json
import math
import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from repair_kernels.version import __version__


@dataclasses.dataclass(frozen=True)
class Result:
    """What came of a command.

    Attributes:
        text: for people
        data: the same for programs, in values that `plain` takes
    """

    text: str
    data: Mapping[str, Any]


def say(options: argparse.Namespace, text: str) -> None:
    """Print what people like to know before the end, unless they asked for quiet or for JSON."""
    if not options.quiet and not options.json:
        print(text, flush=True)


def show(options: argparse.Namespace, result: Result, warnings: Iterable[str]) -> None:
    """Print a result: with `--json` one object and nothing else."""
    if options.json:
        head = {"command": options.command, "version": __version__}
        print(json.dumps({**head, **plain(result.data), "warnings": list(warnings)}, indent=1))
    elif not options.quiet:
        print(result.text)


def plain(value: Any) -> Any:
    """Return a value as JSON has them; NaN and infinity, which it has not, become null.

    Example:
        >>> plain({"loss": (0.5, float("nan"))})
        {'loss': [0.5, None]}
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if dataclasses.is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return [plain(inner) for inner in value]
