"""Which activations somebody means: by name, by pattern, or by kind.

    "layer1.0.conv2"      an activation, or the module whose output it is
    "layer1.*.conv2"      all whose name matches (`*`, `?` and `[...]` as in file names; `*` also
                          stands for dots)
    "conv", "block",      all of a kind: what convolutions and linear maps, residual blocks,
    "norm", "activation"  norms and activation functions return, but for the network's own output
    "all"                 all that there are

A kind's word means the kind even where a module has that name; `"[n]orm"` reaches the module.
"""

from collections.abc import Iterable, Mapping
from difflib import SequenceMatcher
from fnmatch import fnmatchcase

from repair_kernels.errors import ArgumentError
from repair_kernels.graph.taps import Tap

KINDS = {"conv": "layer", "block": "block", "norm": "norm", "activation": "activation"}
"""By the word that selects them, what `Tap.kind` calls them."""
NEAR = 6
"""How many names a message suggests."""


def select(
    names: Iterable[str],
    taps: Mapping[str, Tap],
    modules: Mapping[str, Tap],
    outputs: Iterable[str],
) -> set[str]:
    """Return the names of the taps that any of `names` means.

    Args:
        names: words as in the module's head
        taps: by their names
        modules: taps by the path of the module whose output they are
        outputs: nodes that the network returns, which kinds leave out
    Raises:
        ArgumentError: a name or pattern that no tap has; the message names close ones
    """
    left_out = set(outputs)
    chosen: set[str] = set()
    for name in names:
        if name == "all":
            chosen |= set(taps)
        elif name in KINDS:
            chosen |= {
                tap.name
                for tap in taps.values()
                if tap.kind == KINDS[name] and tap.node not in left_out
            }
        elif any(character in name for character in "*?["):
            chosen |= _matching(name, taps, modules)
        else:
            chosen.add(find(name, taps, modules).name)
    return chosen


def find(name: str, taps: Mapping[str, Tap], modules: Mapping[str, Tap]) -> Tap:
    """Return the tap of one name, or of one module.

    Raises:
        ArgumentError: when there is none
    """
    tap = taps.get(name) or modules.get(name)
    if tap is None:
        raise ArgumentError(
            f"`taps` must name activations of the network; {name!r} is none of them; choose from "
            f"`trace(model, example).taps`, such as {_near(name, taps, modules)}"
        )
    return tap


def _matching(pattern: str, taps: Mapping[str, Tap], modules: Mapping[str, Tap]) -> set[str]:
    named = {**modules, **taps}
    found = {tap.name for name, tap in named.items() if fnmatchcase(name, pattern)}
    if not found:
        raise ArgumentError(
            f"`taps` must match activations of the network; the pattern {pattern!r} matches none; "
            f"choose from `trace(model, example).taps`, such as {_near(pattern, taps, modules)}"
        )
    return found


def _near(name: str, taps: Mapping[str, Tap], modules: Mapping[str, Tap]) -> str:
    """Return the known names that are most like one, in graph order where they are equally so."""
    known = [*taps, *(path for path in modules if path not in taps)]
    likeness = {other: SequenceMatcher(None, other, name).ratio() for other in known}
    return ", ".join(sorted(known, key=lambda other: -likeness[other])[:NEAR])
