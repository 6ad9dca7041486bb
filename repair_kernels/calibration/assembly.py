"""From interpolated weights and corrections to a network, and how its graph sees that network."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from repair_kernels.affine import ChannelAffine
from repair_kernels.calibration.explicit import attach, explicit_layers
from repair_kernels.calibration.new_biases import give_biases
from repair_kernels.calibration.variants import Corrections
from repair_kernels.endpoints import device_of
from repair_kernels.folding import fold_and_locate
from repair_kernels.graph.network import NetworkGraph, State, state_of
from repair_kernels.graph.permutation import with_state


@dataclass(frozen=True)
class MergedNetwork:
    """A merged network, and what was changed in it.

    Attributes:
        model: the network
        interpolated: its weights without corrections
        corrected: taps that were corrected
        explicit: those of them whose correction is a layer of its own
        corrections: what the variant found
        behind: taps whose correction what reads them has absorbed: the network's own value there is
            the one before the correction
        biased: taps of layers that were given a bias
    """

    model: nn.Module
    interpolated: State
    corrected: tuple[str, ...] = ()
    explicit: tuple[str, ...] = ()
    corrections: Corrections = field(default_factory=Corrections)
    behind: tuple[str, ...] = ()
    biased: tuple[str, ...] = ()

    @property
    def norms_reset(self) -> int:
        """How many BatchNorms have new statistics."""
        names = self.corrections.statistics
        return len({name.rpartition(".")[0] for name in names})

    @property
    def is_changed(self) -> bool:
        """Whether anything was corrected."""
        return bool(self.corrected or self.corrections.statistics)

    def as_graph_sees(self, graph: NetworkGraph) -> tuple[State, dict[str, ChannelAffine]]:
        """Return the weights by the graph's names, and the layers to add at taps.

        The graph with these computes what the model does.
        """
        state = state_of(self.model)
        layers = explicit_layers(self.model, graph, self.explicit)
        for tap in self.biased:
            bias = state[f"{graph.tap(tap).module}.bias"]
            layers[tap] = ChannelAffine(torch.ones_like(bias), bias, graph.tap(tap).channel_dim)
        return state, layers


def assemble(
    model_a: nn.Module,
    graph: NetworkGraph,
    state: State,
    corrections: Corrections,
    *,
    add_bias: bool = False,
) -> MergedNetwork:
    """Return a copy of `model_a` with a weight set and its corrections.

    Args:
        state: interpolated weights
        corrections: of that weight set; in its weights as far as they can hold them
        add_bias: whether layers without a bias may get one
    """
    device = device_of(model_a)
    affines = {tap: _placed(affine, device) for tap, affine in corrections.affines.items()}
    folded = fold_and_locate(graph, {**state, **corrections.statistics}, affines)
    model = with_state(model_a, folded.state)
    explicit: Mapping[str, ChannelAffine] = folded.explicit
    if add_bias:
        explicit = give_biases(model, graph, explicit)
    return MergedNetwork(
        attach(model, graph, explicit),
        state,
        tuple(affines),
        tuple(explicit),
        corrections,
        folded.behind,
        tuple(tap for tap in folded.explicit if tap not in explicit),
    )


def _placed(affine: ChannelAffine, device: torch.device) -> ChannelAffine:
    if affine.scale.device == device:
        return affine
    return ChannelAffine(affine.scale.to(device), affine.shift.to(device), affine.channel_dim)
