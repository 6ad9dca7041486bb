"""What a command line names: callables, networks with their checkpoints, and data."""

import argparse
import importlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path as FilePath
from typing import Any

from torch import Tensor, nn

from repair_kernels.checkpoints import load_into, load_state_dict
from repair_kernels.errors import ArgumentError, CheckpointError


def resolve(reference: str) -> Callable[..., Any]:
    """Return the callable that `package.module:callable` names.

    Raises:
        ArgumentError: when there is no such module or callable.
    """
    module_name, separator, attribute = reference.partition(":")
    if not separator or not attribute:
        raise ArgumentError(
            f"a callable is named as `package.module:callable`; got {reference!r}; such as "
            "`torchvision.models:resnet50`"
        )
    try:
        found = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ArgumentError(
            f"`{reference}` must name something that can be imported; {type(error).__name__}: "
            f"{error}; check the spelling, and that the package is installed or in the current "
            "folder"
        ) from error
    if not callable(found):
        raise ArgumentError(f"`{reference}` must name a callable; it is a {type(found).__name__}")
    return found


def load_models(options: argparse.Namespace) -> tuple[nn.Module, nn.Module]:
    """Build both networks and load their checkpoints."""
    build, arguments = resolve(options.model), keyword_arguments(options.model_arg)
    models = []
    for name, file in (("a", options.a), ("b", options.b)):
        model = _call(build, options.model, arguments)
        if not isinstance(model, nn.Module):
            raise ArgumentError(
                f"`--model` must name what builds a torch.nn.Module; {options.model!r} returned a "
                f"{type(model).__name__}"
            )
        load_into(model, load_state_dict(file), name=f"network {name}")
        models.append(model.to(options.device or "cpu").eval())
    return models[0], models[1]


def load_data(reference: str, arguments: Sequence[str], batch_size: int) -> Iterable[Any]:
    """Return batches: what a callable returns, or the tensors of a file cut into batches.

    A file holds inputs under its first name, and labels, if any, under its second.
    """
    if ":" in reference and not FilePath(reference).exists():
        batches = _call(resolve(reference), reference, keyword_arguments(arguments))
        if not isinstance(batches, Iterable):
            raise ArgumentError(
                f"`--data` must name what returns an iterable of batches; {reference!r} returned a "
                f"{type(batches).__name__}"
            )
        return batches
    tensors = list(load_state_dict(reference).values())[:2]
    if len({len(tensor) if tensor.dim() else -1 for tensor in tensors}) != 1:
        raise CheckpointError(
            f"{reference} must hold inputs, and labels of the same number, if any; got "
            f"{[tuple(tensor.shape) for tensor in tensors]}"
        )
    pieces: list[tuple[Tensor, ...]] = [tensor.split(batch_size) for tensor in tensors]
    return list(zip(*pieces, strict=True))


def keyword_arguments(pairs: Sequence[str]) -> dict[str, Any]:
    """Return `name=value` pairs as keyword arguments; values are JSON where they can be.

    Example:
        >>> keyword_arguments(["width=2", "norm=batch", "bias=false"])
        {'width': 2, 'norm': 'batch', 'bias': False}
    """
    found = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not name.isidentifier():
            raise ArgumentError(
                f"an argument is given as `name=value`; got {pair!r}; such as `width=2`"
            )
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError:
            found[name] = value
    return found


def _call(function: Callable[..., Any], reference: str, arguments: dict[str, Any]) -> Any:
    try:
        return function(**arguments)
    except (TypeError, ValueError, OSError) as error:
        raise ArgumentError(
            f"`{reference}` must take the arguments {arguments}; {type(error).__name__}: {error}"
        ) from error
