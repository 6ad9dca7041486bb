"""Put corrections into the weights, as far as weights can hold them.

A correction `y = s x + t` of a tap is absorbed by the first of these that can do so exactly:

- the BatchNorms that alone read the tap (`readers.py`),
- the layer that made the tap, else the norm that made it (`makers.py`),
- all that read the tap, if they are norms, or layers that see no zeros of padding (`readers.py`).

What remains, such as the sum of a residual block, becomes a layer: see `explicit.py`.

The last tap is first. Of two corrections in the weights of one reader,

    r(s2 (s1 x + t1) + t2):    W' = W s2 s1    b' = b + W t2 + W s2 t1

the one nearer to the reader has to be in its weights when the other comes, and where that one stays
a layer the other must not pass it. A layer's own correction goes around all that it reads, and is
absorbed by the same formulas before or after those.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from repair_kernels.affine import ChannelAffine
from repair_kernels.folding.correction import Correction, put
from repair_kernels.folding.makers import into_layer, into_norm
from repair_kernels.folding.readers import into_norms, into_readers, reached
from repair_kernels.graph.network import NetworkGraph, State

__all__ = ["Folded", "fold", "fold_and_locate"]

ABSORBERS = (into_norms, into_layer, into_norm, into_readers)
BEHIND = (into_norms, into_readers)
"""Those that leave the tap's own value as it is."""


@dataclass(frozen=True)
class Folded:
    """A weight set with corrections in it.

    Attributes:
        state: the new weight set
        explicit: the corrections that nothing could absorb, in graph order
        behind: taps whose correction is in the weights of what reads them, in graph order
    """

    state: State
    explicit: dict[str, ChannelAffine]
    behind: tuple[str, ...]


def fold(
    graph: NetworkGraph, state: State, affines: Mapping[str, ChannelAffine]
) -> tuple[State, dict[str, ChannelAffine]]:
    """Absorb corrections into a weight set.

    Args:
        affines: by tap
    Returns:
        the new weight set, and the corrections that nothing could absorb
    """
    folded = fold_and_locate(graph, state, affines)
    return folded.state, folded.explicit


def fold_and_locate(
    graph: NetworkGraph, state: State, affines: Mapping[str, ChannelAffine]
) -> Folded:
    """Absorb corrections into a weight set, and say behind which taps they are."""
    folded = dict(state)
    explicit, behind, kept = {}, [], set()
    order = {node.name: number for number, node in enumerate(graph.nodes)}
    places = {name: order[graph.tap(name).node] for name in affines}
    for name in sorted(places, key=places.__getitem__, reverse=True):
        node, correction = graph.nodes[places[name]], Correction.of(affines[name])
        passes_kept = any(value in kept for value, _ in reached(node, correction))
        for absorb in ABSORBERS:
            if absorb in BEHIND and passes_kept:
                continue
            changed = absorb(graph, folded, node, correction)
            if changed is not None:
                put(graph, folded, changed)
                if absorb in BEHIND:
                    behind.append(name)
                break
        else:
            explicit[name] = affines[name]
            kept.add(node)
    return Folded(folded, dict(reversed(explicit.items())), tuple(reversed(behind)))
