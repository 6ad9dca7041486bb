"""Corrections folded, and the same applied where they stand."""

import copy

import torch
from torch import Tensor, nn

import repair_kernels as rk
from repair_kernels import ChannelAffine
from repair_kernels.calibration.explicit import attach
from repair_kernels.folding import fold
from repair_kernels.graph.network import NetworkGraph, state_of
from repair_kernels.graph.permutation import with_state

DOUBLE = 1e-9


def affine(channels: int, *, seed: int = 3, shift: float = 1.0) -> ChannelAffine:
    """Return a correction with factors between .5 and 3."""
    generator = torch.Generator().manual_seed(seed)
    scale = 0.5 + 2.5 * torch.rand(channels, generator=generator, dtype=torch.float64)
    return ChannelAffine(
        scale, shift * torch.randn(channels, generator=generator, dtype=torch.float64)
    )


def explicitly(model: nn.Module, tap: str, layer: ChannelAffine, dim: int = 1) -> nn.Module:
    """Return the model with a correction behind a module, by a hook of the test's own."""
    model = copy.deepcopy(model)
    shape = [1] * 6
    shape[0] = -1

    def correct(module: nn.Module, args: tuple, y: Tensor) -> Tensor:
        values = y.movedim(dim, -1) * layer.scale.to(y) + layer.shift.to(y)
        return values.movedim(-1, dim)

    model.get_submodule(tap).register_forward_hook(correct)
    return model


def folded(
    model: nn.Module,
    x: Tensor,
    affines: dict[str, ChannelAffine],
    graph: NetworkGraph | None = None,
) -> tuple[nn.Module, dict[str, ChannelAffine]]:
    graph = graph or rk.trace(model, x)
    # A correction acts on the dimension of channels that the graph has found.
    affines = {
        tap: ChannelAffine(a.scale, a.shift, graph.tap(tap).channel_dim)
        for tap, a in affines.items()
    }
    state, explicit = fold(graph, state_of(model), affines)
    return attach(with_state(model, state), graph, explicit), explicit


def assert_equal_functions(f: nn.Module, g: nn.Module, x: Tensor, allowed: float) -> None:
    with torch.no_grad():
        wanted = g(x)
        torch.testing.assert_close(f(x), wanted, rtol=0, atol=allowed * wanted.abs().max().item())
