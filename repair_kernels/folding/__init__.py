"""Put corrections into the weights, as far as weights can hold them.

A correction `y = s x + t` of a tap is absorbed by the first of these that can do so exactly:

- the BatchNorms that alone read the tap (`readers.py`),
- the layer that made the tap, else the norm that made it (`makers.py`),
- all that read the tap, if they are norms, or layers that see no zeros of padding (`readers.py`).

What remains, such as the sum of a residual block, becomes a layer: see `explicit.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from repair_kernels.affine import ChannelAffine
from repair_kernels.folding.correction import Correction, put
from repair_kernels.folding.makers import into_layer, into_norm
from repair_kernels.folding.readers import into_norms, into_readers
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
        explicit: the corrections that nothing could absorb
        behind: taps whose correction is in the weights of what reads them
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
    explicit, behind = {}, []
    nodes = {node.name: node for node in graph.nodes}
    for name, affine in affines.items():
        node = nodes[graph.tap(name).node]
        correction = Correction(affine.scale.double(), affine.shift.double(), affine.channel_dim)
        for absorb in ABSORBERS:
            changed = absorb(graph, folded, node, correction)
            if changed is not None:
                put(graph, folded, changed)
                if absorb in BEHIND:
                    behind.append(name)
                break
        else:
            explicit[name] = affine
    return Folded(folded, explicit, tuple(behind))
