"""Corrections that no weight can hold, as layers with a name; and their way through files.

A `ChannelAffine` stands at the module whose output the tap is, as that module's `channel_affine`. A
tap inside a module's forward can only be reached in the graph: then the network becomes a
`GraphNetwork`. `load_merged` builds either from a merged checkpoint.
"""

from collections.abc import Iterable, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from repair_kernels.affine import ChannelAffine
from repair_kernels.calibration.new_biases import layer_without_bias, new_bias
from repair_kernels.checkpoints import load_into
from repair_kernels.errors import ArchitectureMismatchError, ArgumentError
from repair_kernels.graph.execution import execute
from repair_kernels.graph.network import NetworkGraph, State, state_of, trace
from repair_kernels.graph.permutation import with_state
from repair_kernels.graph.taps import Tap

LAYER, LAYERS = "channel_affine", "channel_affines"


def attach(
    model: nn.Module, graph: NetworkGraph, explicit: Mapping[str, ChannelAffine]
) -> nn.Module:
    """Return the model with explicit corrections as layers, each in the dtype of the model.

    Where every tap is a module's output the model itself is changed (hand in a copy): the layer
    becomes that module's `channel_affine` and acts on its output. Otherwise a `GraphNetwork` is
    returned.
    """
    if not explicit:
        return model
    reference = next(t for t in state_of(model).values() if t.is_floating_point())
    layers = {
        name: ChannelAffine(a.scale, a.shift, a.channel_dim).to(reference)
        for name, a in explicit.items()
    }
    if any(graph.tap(name).module is None for name in layers):
        return GraphNetwork(graph, state_of(model), layers)
    for name, layer in layers.items():
        _attach_to(model.get_submodule(graph.tap(name).module or ""), layer)
    return model


def explicit_layers(
    model: nn.Module, graph: NetworkGraph, taps: Iterable[str]
) -> dict[str, ChannelAffine]:
    """Return the layers that `attach` put at taps, as the model holds them."""
    if isinstance(model, GraphNetwork):
        layers = model.channel_affines
        return {tap: cast(ChannelAffine, layers[tap.replace(".", "/")]) for tap in taps}
    modules = {tap: model.get_submodule(graph.tap(tap).module or "") for tap in taps}
    return {
        tap: cast(ChannelAffine, module.get_submodule(LAYER)) for tap, module in modules.items()
    }


def _attach_to(module: nn.Module, layer: ChannelAffine) -> None:
    module.register_module(LAYER, layer)
    module.register_forward_hook(_apply_channel_affine)


def _apply_channel_affine(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
    return module.get_submodule(LAYER)(output)


class GraphNetwork(nn.Module):
    """A network that runs its captured graph, with corrections at taps that are no module's output.

    The parameters keep their names. It computes in evaluation mode only: `train()` changes nothing.

    Args:
        graph: the captured graph
        state: its weight set, copied
        affines: corrections by tap; `channel_affines` holds them, with dots in names written as
            slashes
    """

    def __init__(self, graph: NetworkGraph, state: State, affines: Mapping[str, ChannelAffine]):
        super().__init__()
        self._graph = graph
        self.channel_affines = nn.ModuleDict(
            {name.replace(".", "/"): layer for name, layer in affines.items()}
        )
        self._taps = tuple(affines)
        self._names = tuple(state)
        for name, tensor in state.items():
            *path, leaf = name.split(".")
            owner: nn.Module = self
            for part in path:
                if part not in owner._modules:
                    owner.register_module(part, nn.Module())
                owner = owner.get_submodule(part)
            if tensor.is_floating_point():
                owner.register_parameter(leaf, nn.Parameter(tensor.clone(), requires_grad=False))
            else:
                owner.register_buffer(leaf, tensor.clone())

    def forward(self, x: Tensor) -> Tensor:
        """Return the network's output."""
        held = state_of(self)
        return execute(
            self._graph, [{name: held[name] for name in self._names}], x, self._correct, self._taps
        )[0]

    def _correct(self, tap: Tap, values: list[Tensor]) -> list[Tensor]:
        return [self.channel_affines[tap.name.replace(".", "/")](value) for value in values]


def load_merged(
    model: nn.Module, state: Mapping[str, Tensor], *, example_input: Tensor | None = None
) -> nn.Module:
    """Return a copy of a network with the weights of a merged one, explicit layers included.

    Args:
        model: a network of the architecture that was merged, such as a fresh one
        state: what a merged network's `state_dict()` returned, or `load_state_dict` read from a
            file that `repair-kernels merge` wrote
        example_input: a batch of inputs; needed where a correction lies inside a module's forward
    Returns:
        a network that computes what the merged one did; layers have the biases that it gave them
    Raises:
        ArchitectureMismatchError: names or shapes that are not those of `model`
        ArgumentError: without the `example_input` that is needed
    Example:
        >>> merged = nn.Linear(2, 2, bias=False)
        >>> load_merged(nn.Linear(2, 2, bias=False), merged.state_dict()).weight.shape
        torch.Size([2, 2])
    """
    affines = _affines_of(state)
    weights = {name: t for name, t in state.items() if _owner_of(name) is None}
    loaded = with_state(model, state_of(model))
    for name in weights.keys() - state_of(loaded).keys():
        path, _, leaf = name.rpartition(".")
        layer = layer_without_bias(loaded, path)
        if leaf == "bias" and layer is not None:
            layer.bias = new_bias(layer, torch.zeros_like(weights[name]))
    load_into(loaded, weights, name="the merged network")
    inner = {owner: a for owner, a in affines.items() if owner.startswith(f"{LAYERS}.")}
    if inner:
        if example_input is None:
            raise ArgumentError(
                "`example_input` is needed: the merged network is corrected inside a module's "
                f"forward ({', '.join(inner)}), which only its graph can do; pass one batch"
            )
        named = {o.removeprefix(f"{LAYERS}.").replace("/", "."): a for o, a in inner.items()}
        return GraphNetwork(trace(loaded, example_input), state_of(loaded), named)
    modules = dict(loaded.named_modules())
    for owner, layer in affines.items():
        path = owner.removesuffix(LAYER).rstrip(".")
        if path not in modules:
            raise ArchitectureMismatchError(
                f"the merged network has a correction at {path!r}, which `model` lacks; build the "
                "architecture that was merged"
            )
        _attach_to(modules[path], layer)
    return loaded


def _owner_of(name: str) -> str | None:
    """Return the path of the correction that a state dict's entry belongs to, if any."""
    owner, _, _ = name.rpartition(".")
    parts = owner.split(".")
    return owner if parts[-1] == LAYER or parts[0] == LAYERS else None


def _affines_of(state: Mapping[str, Tensor]) -> dict[str, ChannelAffine]:
    owners = dict.fromkeys(owner for name in state if (owner := _owner_of(name)) is not None)
    found = {}
    for owner in owners:
        parts = [state.get(f"{owner}.{leaf}") for leaf in ("scale", "shift", "dim")]
        if any(part is None for part in parts):
            raise ArchitectureMismatchError(
                f"the correction {owner!r} must have `scale`, `shift` and `dim`; one is missing; "
                "use the whole merged checkpoint"
            )
        scale, shift, dim = (torch.as_tensor(part) for part in parts)
        found[owner] = ChannelAffine(scale, shift, int(dim))
    return found
