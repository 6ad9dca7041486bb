"""Where in a checkpoint the state dict is: under which key, and behind which wrapper's prefix."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from repair_kernels.checkpoints.inert_pickle import Record
from repair_kernels.checkpoints.versions import versions_of, with_versions, without_prefix
from repair_kernels.errors import CheckpointError

NESTINGS = (
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "module",
    "weights",
    "params",
    "state_dict_ema",
    "ema_state_dict",
    "model_ema",
    "params_ema",
    "ema",
)
"""Under which keys training scripts nest a state dict."""
WRAPPERS = ("module.", "_orig_mod.", "_fsdp_wrapped_module.")
"""What `DataParallel`, `DistributedDataParallel`, `torch.compile` and FSDP put before names."""
AVERAGED = "n_averaged"
"""What `torch.optim.swa_utils.AveragedModel` keeps beside the module that it wraps."""
SHOWN = 8
DEEPEST = 16
"""How deep mappings may be nested; hostile files nest them deeper than Python can follow."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a file that is not read yet; `read` reads it."""

    read: Callable[[], Tensor]


def find_state(contents: Any, place: str, key: str | None = None) -> Mapping[str, Any]:
    """Go down the nestings of a checkpoint to its state dict: tensors, read or stored, by name.

    Args:
        contents: what the file holds
        place: what messages call the file
        key: which of several to take, such as "ema" or "ema.module"; of a flat file the part of
            the names before a dot

    Raises:
        CheckpointError: when there is none, or more than one and no `key`
    """
    if key is not None:
        contents = _under(contents, key, place)
    found = dict(_candidates(contents, NESTINGS))
    if len(found) == 1:
        return next(iter(found.values()))
    choices = found or dict(_candidates(contents, None))
    if choices:
        what = "one state dict" if found else f"a state dict under one of {', '.join(NESTINGS)}"
        raise CheckpointError(
            f"expected {place} to hold {what}, but it holds {_described(choices)}; choose one with "
            f"`key`, such as key={next(iter(choices))!r}"
        )
    for _ in NESTINGS:
        inner = contents if isinstance(contents, Mapping) else {}
        nested = (inner[name] for name in NESTINGS if isinstance(inner.get(name), Mapping))
        contents = next(nested, contents)
    check_state(contents, place)
    return contents


def check_state(state: Any, place: str) -> None:
    """Check that a value is a state dict: a mapping with names and tensors, one at least.

    Raises:
        CheckpointError: naming what is there instead
    """
    advice = "save what `model.state_dict()` returns"
    if not isinstance(state, Mapping):
        raise CheckpointError(
            f"expected {place} to hold a state dict (tensors by name), but it holds a value of "
            f"type {type(state).__name__}; {advice}"
        )
    if not state:
        raise CheckpointError(
            f"expected {place} to hold a state dict (tensors by name), but it is empty; {advice}"
        )
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor | StoredTensor):
            raise CheckpointError(
                f"expected {place} to hold a state dict (tensors by name), but its entry {name!r} "
                f"is of type {_kind(value)}; {advice}"
            )


def unwrapped(
    state: Mapping[str, Any], versions: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Remove the prefixes of wrapper modules from names, where all have them.

    Returns:
        the entries and the modules' versions, by the names that the wrapped module gives them
    """
    entries, versions = dict(state), dict(versions)
    while True:
        names = entries.keys() - {AVERAGED}
        prefix = next((p for p in WRAPPERS if names and all(n.startswith(p) for n in names)), None)
        if prefix is None:
            return entries, versions
        entries.pop(AVERAGED, None)
        entries = {name.removeprefix(prefix): value for name, value in entries.items()}
        versions = without_prefix(versions, prefix)


def prefixes_in(names: Iterable[str]) -> list[str]:
    """Return all that stands before a dot in names, in their order."""
    found: dict[str, None] = {}
    for name in names:
        at = -1
        for _ in range(DEEPEST):
            at = name.find(".", at + 1)
            if at < 0:
                break
            found[name[: at + 1]] = None
    return list(found)


def under_prefix(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return the entries behind a prefix by what follows it, with their modules' versions."""
    found = {
        name.removeprefix(prefix): entry
        for name, entry in state.items()
        if isinstance(name, str) and name.startswith(prefix)
    }
    module = prefix.removesuffix(".")
    inside = {
        key.removeprefix(prefix) if key != module else "": value
        for key, value in versions_of(state).items()
        if key == module or key.startswith(prefix)
    }
    return with_versions(found, inside)


def _kind(value: Any) -> str:
    return value.name if isinstance(value, Record) else type(value).__name__


def _is_state(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(name, str) for name in value)
        and all(isinstance(entry, Tensor | StoredTensor) for entry in value.values())
    )


def _candidates(
    contents: Any, names: tuple[str, ...] | None, path: tuple[str, ...] = ()
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the state dicts in nested mappings, each with its dotted key.

    Each mapping is looked at once, as a hostile file may nest one in itself.

    Args:
        names: which keys to look under; None: all
    """
    seen: set[int] = set()
    waiting = [(path, contents)]
    while waiting:
        path, held = waiting.pop(0)
        if not isinstance(held, Mapping) or id(held) in seen or len(path) > DEEPEST:
            continue
        seen.add(id(held))
        if _is_state(held):
            yield ".".join(path), held
            continue
        keys = [key for key in held if isinstance(key, str)] if names is None else names
        waiting += [((*path, key), held.get(key)) for key in keys]


def _under(contents: Any, key: str, place: str) -> Any:
    found = _descended(contents, key) if isinstance(contents, Mapping) else None
    if found is None:
        choices = dict(_candidates(contents, None))
        raise CheckpointError(
            f"expected {place} to have something under `key` {key!r}, but it holds "
            f"{_described(choices) if choices else 'no state dict'}; name one of them"
        )
    return found


def _descended(contents: Mapping[str, Any], key: str) -> Any:
    """Follow a dotted key, whose parts may have dots themselves; None where it leads nowhere."""
    if key in contents and not isinstance(contents[key], Tensor | StoredTensor):
        return contents[key]
    parts = key.split(".")
    for length in range(len(parts) - 1, 0, -1):
        inner = contents.get(".".join(parts[:length]))
        if isinstance(inner, Mapping):
            return _descended(inner, ".".join(parts[length:]))
    return under_prefix(contents, f"{key}.") or None


def _described(choices: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [
        f"{f'`{key}`' if key else 'at its top'} ({len(state)} tensors)"
        for key, state in list(choices.items())[:SHOWN]
    ]
    more = [f"{len(choices) - SHOWN} more"] if len(choices) > SHOWN else []
    return ", ".join([*lines, *more])
