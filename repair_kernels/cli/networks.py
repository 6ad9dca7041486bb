"""Networks as a command line names them: what builds them, and where their weights are."""

import argparse
import difflib
import importlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from repair_kernels.checkpoints import load_into, load_state_dict
from repair_kernels.errors import ArgumentError, MissingExtraError
from repair_kernels.published import is_published, published_weights

ZOOS = ("torchvision", "timm")


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
        raise ArgumentError(
            f"`{reference}` must name a callable; it is a {type(found).__name__}; name a class or "
            "function of that module"
        )
    return found


def builder(reference: str) -> Callable[..., Any]:
    """Return what builds a network, always with random weights.

    Args:
        reference: `package.module:callable`, `torchvision:name` or `timm:name`
    Raises:
        ArgumentError: when there is no such thing
        MissingExtraError: when torchvision or timm is not installed
    """
    zoo, _, name = reference.partition(":")
    if zoo not in ZOOS or not name:
        return resolve(reference)
    library = _library(zoo)
    names = library.models.list_models() if zoo == "torchvision" else library.list_models()
    if name not in names and not name.startswith("hf-hub:"):
        raise ArgumentError(
            f"`--model` must name a network of {zoo}; {name!r} is none{_close(name, names)}; "
            f"{zoo}'s documentation lists them"
        )
    if zoo == "torchvision":
        return lambda **arguments: library.models.get_model(name, weights=None, **arguments)
    return lambda **arguments: library.create_model(name, pretrained=False, **arguments)


def build(options: argparse.Namespace) -> nn.Module:
    """Build a network of the architecture that `--model` names."""
    model = call(builder(options.model), options.model, keyword_arguments(options.model_arg))
    if not isinstance(model, nn.Module):
        raise ArgumentError(
            f"`--model` must name what builds a torch.nn.Module; {options.model!r} returned a "
            f"{type(model).__name__}; name a class or function that returns the network"
        )
    return model.eval()


def load_models(options: argparse.Namespace) -> tuple[nn.Module, nn.Module]:
    """Build both networks and load their checkpoints."""
    models = []
    for name in "ab":
        model = build(options)
        key = getattr(options, f"key_{name}") or options.key
        state = load_state_dict(checkpoint_of(getattr(options, name)), key=key)
        load_into(model, state, name=f"network {name}")
        models.append(model.to(options.device or "cpu"))
    return models[0], models[1]


def checkpoint_of(reference: str) -> Path:
    """Return where a checkpoint is; weights that torchvision publishes are downloaded first."""
    return published_weights(reference) if is_published(reference) else Path(reference)


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


def call(function: Callable[..., Any], reference: str, arguments: dict[str, Any]) -> Any:
    """Call what a command line names; explain what goes wrong by its name."""
    try:
        return function(**arguments)
    except (TypeError, ValueError, OSError) as error:
        raise ArgumentError(
            f"`{reference}` must take the arguments {arguments}; {type(error).__name__}: {error}; "
            "correct what is given as NAME=VALUE, or leave it out"
        ) from error


def _library(zoo: str) -> Any:
    try:
        return importlib.import_module(zoo)
    except (ImportError, RuntimeError) as error:  # of another version than PyTorch's
        raise MissingExtraError(
            f"`{zoo}:` names a network of {zoo}, which cannot be imported ({error}); install "
            "the one that fits this PyTorch: pip install 'repair-kernels[vision]'"
        ) from error


def _close(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(names), n=3)
    return f"; close to it: {', '.join(close)}" if close else ""
