"""Networks of all kinds of scale symmetries, their copies at other scales, and what has none."""

import copy
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

import repair_kernels as rk
from repair_kernels.balancing import BalanceResult, balance_state
from repair_kernels.graph.network import state_of
from repair_kernels.graph.permutation import with_state
from repair_kernels.graph.taps import LAYERS
from repair_kernels.scaling import rescale
from tests.foldable import Shared, Skip
from tests.networks import FAMILIES, lively

EXACT = 1e-12
IMAGE = (3, 9, 9)


def grouped() -> nn.Module:
    """Return a network with grouped, depthwise and transposed convolutions, with norms and none."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.LeakyReLU(0.1),
        nn.Conv2d(4, 8, 3, groups=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.PReLU(8),
        nn.MaxPool2d(2, 1, 1),
        nn.ConvTranspose2d(8, 6, 3, groups=2),
        nn.Dropout(),
        nn.ReLU(inplace=True),
        nn.AvgPool2d(2),
        nn.ConvTranspose2d(6, 4, 2, groups=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * 25, 5),
    )


def norms() -> nn.Module:
    """Return a network whose BatchNorms stand behind a ReLU, or have no weights."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.ReLU(),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 6, 3),
        nn.BatchNorm2d(6, affine=False),
        nn.ReLU(),
        weight_norm(nn.Conv2d(6, 5, 3)),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 4),
    )


def drawn(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Return a network in float64 whose BatchNorm weights have both signs."""
    model = lively(build(), seed).eval().double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
                module.weight.mul_(
                    1 - 2 * torch.randint(0, 2, module.weight.shape, generator=generator)
                )
    return model


NETWORKS = {
    **{n: (f.build, f.shape) for n, f in FAMILIES.items() if n != "imagenet_bottleneck"},
    "grouped": (grouped, IMAGE),
    "norms": (norms, IMAGE),
}
BALANCED = [n for n in NETWORKS if n not in ("resnet_layer_norm", "resnet_fixup")]


def network(name: str, seed: int) -> nn.Module:
    return drawn(NETWORKS[name][0], seed)


def inputs(name: str, n: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(9)
    return torch.randn(n, *NETWORKS[name][1], generator=generator, dtype=torch.float64)


@cache
def graph_of(name: str) -> rk.NetworkGraph:
    """Return a network's graph: capturing takes longer than all that is tested here."""
    return rk.trace(network(name, 0), inputs(name))


def balanced(name: str, a: nn.Module, b: nn.Module, **options: str) -> BalanceResult:
    """Return what `balance` returns, without capturing."""
    found = balance_state(graph_of(name), state_of(a), state_of(b), **options)
    return BalanceResult(with_state(b, found.state), found.report)


def deviation(model: nn.Module, other: nn.Module, x: Tensor) -> float:
    """Return how far another network's outputs are off, relative to the largest."""
    with torch.no_grad():
        wanted = model(x)
        return float((other(x) - wanted).abs().max() / wanted.abs().max())


def rescaled(name: str, model: nn.Module, draw: Callable[[int], Tensor]) -> nn.Module:
    """Return a network of the same function, each layer's channels multiplied by factors."""
    graph, state = graph_of(name), state_of(model)
    for node in graph.nodes:
        if getattr(node.target, "overloadpacket", None) in LAYERS:
            factor = draw(node.meta["val"].shape[1])
            found = rescale(graph, state, node, factor)
            if found.refused:
                found = rescale(graph, state, node, factor.abs())
            state = {**state, **found.changed}
    return with_state(model, state)


def factors(seed: int, low: float = -2, high: float = 2) -> Callable[[int], Tensor]:
    """Return a source of factors from 10^low to 10^high, of both signs."""
    generator = torch.Generator().manual_seed(seed)

    def draw(channels: int) -> Tensor:
        size = torch.rand(channels, generator=generator, dtype=torch.float64)
        sign = 1 - 2 * torch.randint(0, 2, (channels,), generator=generator)
        return sign * 10 ** (low + (high - low) * size)

    return draw


def assert_same_weights(model: nn.Module, wanted: nn.Module, rtol: float) -> None:
    for name, tensor in state_of(wanted).items():
        largest = float(tensor.abs().max())
        torch.testing.assert_close(state_of(model)[name], tensor, rtol=rtol, atol=rtol * largest)


class Sum(nn.Module):
    """A residual sum without a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.out = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x).relu()
        return self.out((x + self.two(x)).relu())


def row_of(*layers: nn.Module) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(*copy.deepcopy(layers))


REFUSED = {
    "output": (row_of(nn.Linear(4, 2)), (4,), "0", "it is the output of the network"),
    "relu and output": (row_of(nn.Linear(4, 2), nn.ReLU()), (4,), "0", "the output of the network"),
    "shared": (Shared, (4,), "one", "shared, used twice or computed"),
    "sum": (Sum, (4,), "one", "a sum reads it (add)"),
    "other readers": (lambda: Skip(bias=True), IMAGE, "conv", "aten.tanh.default (tanh)"),
    "gelu": (row_of(nn.Linear(4, 3), nn.GELU(), nn.Linear(3, 2)), (4,), "0", "aten.gelu.default"),
    "LayerNorm": (
        row_of(nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 2)),
        (4,),
        "0",
        "layer_norm undoes a scale only up to its eps",
    ),
    "GroupNorm": (
        row_of(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Conv2d(4, 2, 1)),
        IMAGE,
        "0",
        "group_norm undoes a scale only up to its eps",
    ),
    "BatchNorm of tokens": (
        row_of(nn.Linear(4, 3), nn.BatchNorm1d(5), nn.Linear(3, 2)),
        (5, 4),
        "0",
        "batch_norm undoes",
    ),
}
