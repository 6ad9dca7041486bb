"""Do the folded weights do what the corrections say? The network beside one that holds them apart.

    deviation = max |y - y'| / max |y|

y is the output of the interpolated weights with an explicit correction at each tap, y' that of the
network as it is stored, both computed in float64. Stored weights are rounded. What that may do
shows a third network, the first with every weight and correction off by one rounding of the stored
dtype.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from repair_kernels.affine import ChannelAffine
from repair_kernels.calibration.assembly import MergedNetwork
from repair_kernels.graph.execution import as_mapping, execute
from repair_kernels.graph.network import NetworkGraph
from repair_kernels.graph.taps import Tap
from repair_kernels.graph.verification import (
    MARGIN,
    jittered,
    relative_deviation,
    tensors_in,
    widen,
    widened,
)


@dataclass(frozen=True)
class FoldedDeviation:
    """How far a folded network's outputs are off, relative to the largest output.

    Attributes:
        found: of the network as it is stored
        rounding: of explicit corrections, with weights that are off by one rounding
    """

    found: float
    rounding: float

    def doubts(self) -> tuple[str, ...]:
        """Say if it is more than rounding explains."""
        if self.found <= MARGIN * self.rounding:
            return ()
        return (
            "the corrections that are in the weights must do what they do as layers of their own; "
            f"the network deviates by {self.found:.1e} of its largest output, and rounding "
            f"explains {self.rounding:.1e}: please report this architecture",
        )


def folded_deviation(graph: NetworkGraph, merged: MergedNetwork, batch: Tensor) -> FoldedDeviation:
    """Run a merged network beside the interpolated weights with explicit corrections.

    Args:
        merged: the network, its corrections in its weights
        batch: inputs on the device where to run
    """
    stored, layers = merged.as_graph_sees(graph)
    bare = {**merged.interpolated, **merged.corrections.statistics}
    bare, stored = (as_mapping(state, batch.device) for state in (bare, stored))
    generator = torch.Generator().manual_seed(0)
    near = {name: jittered(tensor, generator) for name, tensor in bare.items()}
    dtype = next(t.dtype for t in bare.values() if t.is_floating_point())
    explicit = {tap: _on(batch.device, a) for tap, a in merged.corrections.affines.items()}
    held = {tap: _on(batch.device, layer) for tap, layer in layers.items()}
    shaken = {tap: _shaken(affine, dtype, generator) for tap, affine in explicit.items()}

    def correct(tap: Tap, values: list[Tensor]) -> list[Tensor]:
        return [
            at[tap.name](value) if tap.name in at else value
            for at, value in zip((explicit, held, shaken), values, strict=True)
        ]

    with torch.no_grad():
        outputs = execute(
            graph,
            [widened(state) for state in (bare, stored, near)],
            widen(batch),
            correct,
            tuple({*explicit, *held}),
            torch.float64,
        )
    expected, folded, off = (tensors_in(output) for output in outputs)
    floats = [i for i, y in enumerate(expected) if y.is_floating_point() and y.numel()]
    return FoldedDeviation(
        *(
            max((relative_deviation(expected[i], other[i]) for i in floats), default=0.0)
            for other in (folded, off)
        )
    )


def _on(device: torch.device, affine: ChannelAffine) -> ChannelAffine:
    """Return a copy of a correction, in float64."""
    scale, shift = (held.to(device, torch.float64) for held in (affine.scale, affine.shift))
    return ChannelAffine(scale, shift, affine.channel_dim)


def _shaken(affine: ChannelAffine, dtype: torch.dtype, generator: torch.Generator) -> ChannelAffine:
    """Return a correction that is off by one rounding of `dtype`."""
    scale, shift = (jittered(held.to(dtype), generator) for held in (affine.scale, affine.shift))
    return ChannelAffine(scale.double(), shift.double(), affine.channel_dim)
