"""Networks with a tap that is corrected, and which of their tensors must take the correction."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm


@dataclass(frozen=True)
class Case:
    """A network, the module whose output is corrected, and the tensors that take the correction."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    tap: str
    channels: int
    changed: tuple[str, ...] = ()
    """What absorbs it; nothing: the correction stays explicit."""


class Skip(nn.Module):
    """A convolution that a BatchNorm and a skip read."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, bias=bias), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.norm(x) + x.tanh()


class Forks(nn.Module):
    """A residual block that two convolutions read, each for its own branch."""

    def __init__(self, padding: int = 0) -> None:
        super().__init__()
        self.conv, self.block = nn.Conv2d(3, 4, 1), Block()
        self.one, self.two = nn.Conv2d(4, 2, 3, padding=padding), nn.Conv2d(4, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.conv(x))
        return self.one(x).mean((2, 3)) + self.two(x).mean((2, 3))


class Block(nn.Module):
    """A residual sum."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class PooledFork(nn.Module):
    """An activation that one convolution reads itself, and another one behind two pools."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 4, 3), nn.ReLU()
        self.one, self.two = nn.Conv2d(4, 2, 2), nn.Conv2d(4, 2, 2)
        self.first, self.second = nn.AvgPool2d(2, 1), nn.MaxPool2d(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.conv(x))
        return self.one(x).mean((2, 3)) + self.two(self.second(self.first(x))).mean((2, 3))


class Shared(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x).relu())


class Deep(nn.Module):
    """A residual block between pools, with norms, that a linear layer reads."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool, self.block = nn.Conv2d(3, 4, 1), nn.AvgPool2d(2), Block()
        self.norm, self.out = nn.BatchNorm2d(4), nn.Linear(4, 2)
        self.last = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.pool(self.conv(x).relu()))
        return self.out(self.last(self.norm(x).relu()).flatten(1))


def chain(*layers: nn.Module) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(*copy.deepcopy(layers))


IMAGE, ROW = (3, 6, 6), (5,)
CONV = nn.Conv2d(3, 4, 3)
BARE = nn.Conv2d(3, 4, 3, bias=False)
NORM = nn.BatchNorm2d(4)
RUNNING = ("1.running_mean", "1.running_var")
LAYER = ("0.weight", "0.bias")

CASES = {
    "conv, BatchNorm": Case(chain(CONV, NORM, nn.ReLU()), IMAGE, "0", 4, RUNNING),
    "bare conv, BatchNorm": Case(chain(BARE, NORM, nn.ReLU()), IMAGE, "0", 4, RUNNING),
    "conv, dropout, BatchNorm": Case(
        chain(CONV, nn.Dropout(), NORM), IMAGE, "0", 4, ("2.running_mean", "2.running_var")
    ),
    "conv, BatchNorm without weights": Case(
        chain(CONV, nn.BatchNorm2d(4, affine=False), nn.ReLU()), IMAGE, "0", 4, RUNNING
    ),
    "conv, BatchNorm without statistics": Case(
        chain(CONV, nn.BatchNorm2d(4, track_running_stats=False)), IMAGE, "0", 4, LAYER
    ),
    "linear, BatchNorm": Case(chain(nn.Linear(5, 4), nn.BatchNorm1d(4)), ROW, "0", 4, RUNNING),
    "conv": Case(chain(CONV, nn.ReLU()), IMAGE, "0", 4, LAYER),
    "conv in place": Case(chain(CONV, nn.ReLU(inplace=True)), IMAGE, "0", 4, LAYER),
    "bare conv": Case(chain(BARE, nn.ReLU()), IMAGE, "0", 4),
    "conv1d": Case(chain(nn.Conv1d(3, 4, 2), nn.ReLU()), (3, 6), "0", 4, LAYER),
    "conv3d": Case(chain(nn.Conv3d(2, 4, 2), nn.ReLU()), (2, 4, 4, 4), "0", 4, LAYER),
    "depthwise": Case(
        chain(CONV, nn.Conv2d(4, 8, 3, groups=4), nn.ReLU()), IMAGE, "1", 8, ("1.weight", "1.bias")
    ),
    "grouped": Case(
        chain(CONV, nn.Conv2d(4, 6, 3, groups=2, dilation=2, padding=2), nn.ReLU()),
        IMAGE,
        "1",
        6,
        ("1.weight", "1.bias"),
    ),
    "circular padding": Case(
        chain(nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), nn.ReLU()),
        IMAGE,
        "0",
        4,
        LAYER,
    ),
    "dilated": Case(
        chain(nn.Conv2d(3, 4, 3, dilation=2, stride=2), nn.ReLU()), IMAGE, "0", 4, LAYER
    ),
    "padding same": Case(
        chain(nn.Conv2d(3, 4, 3, padding="same"), nn.ReLU()), IMAGE, "0", 4, LAYER
    ),
    "transposed, grouped": Case(
        chain(CONV, nn.ConvTranspose2d(4, 6, 3, groups=2, stride=2), nn.ReLU()),
        IMAGE,
        "1",
        6,
        ("1.weight", "1.bias"),
    ),
    "transposed, depthwise": Case(
        chain(CONV, nn.ConvTranspose2d(4, 8, 3, groups=4), nn.ReLU()),
        IMAGE,
        "1",
        8,
        ("1.weight", "1.bias"),
    ),
    "transposed3d, BatchNorm": Case(
        chain(nn.ConvTranspose3d(2, 4, 2, bias=False), nn.BatchNorm3d(4), nn.ReLU()),
        (2, 4, 4, 4),
        "0",
        4,
        RUNNING,
    ),
    "bare grouped conv, instance norm with statistics": Case(
        chain(
            nn.Conv2d(3, 6, 3, groups=3, bias=False),
            nn.InstanceNorm2d(6, track_running_stats=True),
        ),
        IMAGE,
        "0",
        6,
        RUNNING,
    ),
    "weight norm": Case(
        lambda: nn.Sequential(weight_norm(nn.Conv2d(3, 4, 3)), nn.ReLU()),
        IMAGE,
        "0",
        4,
        ("0.bias", "0.parametrizations.weight.original0"),
    ),
    "transposed": Case(chain(nn.ConvTranspose2d(3, 4, 3), nn.ReLU()), IMAGE, "0", 4, LAYER),
    "linear": Case(chain(nn.Linear(5, 4), nn.ReLU()), ROW, "0", 4, LAYER),
    "linear on tokens": Case(chain(nn.Linear(5, 4), nn.GELU()), (7, 5), "0", 4, LAYER),
    "linear on tokens, BatchNorm of tokens": Case(
        chain(nn.Linear(5, 4), nn.BatchNorm1d(4)), (4, 5), "0", 4, LAYER
    ),
    "bare linear": Case(chain(nn.Linear(5, 4, bias=False), nn.ReLU()), ROW, "0", 4),
    "BatchNorm": Case(chain(CONV, NORM, nn.ReLU()), IMAGE, "1", 4, ("1.weight", "1.bias")),
    "BatchNorm without weights": Case(
        chain(CONV, nn.BatchNorm2d(4, affine=False), nn.ReLU()), IMAGE, "1", 4, RUNNING
    ),
    "BatchNorm without weights nor statistics": Case(
        chain(CONV, nn.BatchNorm2d(4, affine=False, track_running_stats=False), nn.ReLU()),
        IMAGE,
        "1",
        4,
    ),
    "InstanceNorm": Case(
        chain(CONV, nn.InstanceNorm2d(4, affine=True)), IMAGE, "1", 4, ("1.weight", "1.bias")
    ),
    "GroupNorm without weights": Case(
        chain(CONV, nn.GroupNorm(2, 4, affine=False), nn.ReLU()), IMAGE, "1", 4
    ),
    "LayerNorm without bias": Case(
        chain(nn.Linear(5, 4), nn.LayerNorm(4, bias=False), nn.ReLU()), ROW, "1", 4
    ),
    "RMSNorm": Case(chain(nn.Linear(5, 4), nn.RMSNorm(4), nn.ReLU()), ROW, "1", 4),
    "RMSNorm, linear": Case(
        chain(nn.Linear(5, 4), nn.RMSNorm(4), nn.Linear(4, 2)), ROW, "1", 4, ("2.weight", "2.bias")
    ),
    "LayerNorm": Case(
        chain(nn.Linear(5, 4), nn.LayerNorm(4), nn.ReLU()), ROW, "1", 4, ("1.weight", "1.bias")
    ),
    "LayerNorm over images": Case(chain(CONV, nn.LayerNorm([4, 4, 4])), IMAGE, "1", 4),
    "LayerNorm over as many columns": Case(chain(CONV, nn.LayerNorm(4)), IMAGE, "1", 4),
    "GroupNorm": Case(
        chain(CONV, nn.GroupNorm(2, 4), nn.ReLU()), IMAGE, "1", 4, ("1.weight", "1.bias")
    ),
    "activation": Case(chain(CONV, nn.Sigmoid()), IMAGE, "1", 4),
    "activation, conv": Case(
        chain(CONV, nn.ReLU(), nn.Conv2d(4, 2, 3)), IMAGE, "1", 4, ("2.weight", "2.bias")
    ),
    "activation, padded conv": Case(
        chain(CONV, nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1)), IMAGE, "1", 4
    ),
    "activation, bare conv": Case(
        chain(CONV, nn.ReLU(), nn.Conv2d(4, 2, 3, bias=False)), IMAGE, "1", 4
    ),
    "activation, conv that pads by reflection": Case(
        chain(CONV, nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1, padding_mode="reflect")),
        IMAGE,
        "1",
        4,
        ("2.weight", "2.bias"),
    ),
    "activation, 1x1 conv with padding same": Case(
        chain(CONV, nn.ReLU(), nn.Conv2d(4, 2, 1, padding="same")),
        IMAGE,
        "1",
        4,
        ("2.weight", "2.bias"),
    ),
    "activation, padding same": Case(
        chain(CONV, nn.ReLU(), nn.Conv2d(4, 2, 3, padding="same")), IMAGE, "1", 4
    ),
    "activation, grouped conv": Case(
        chain(CONV, nn.ReLU(), nn.Conv2d(4, 6, 2, groups=2, dilation=2)),
        IMAGE,
        "1",
        4,
        ("2.weight", "2.bias"),
    ),
    "activation, depthwise conv": Case(
        chain(CONV, nn.ReLU(), nn.Conv2d(4, 8, 2, groups=4)), IMAGE, "1", 4, ("2.weight", "2.bias")
    ),
    "activation, transposed conv": Case(
        chain(CONV, nn.ReLU(), nn.ConvTranspose2d(4, 2, 3, stride=2)), IMAGE, "1", 4
    ),
    "activation, flatten, linear": Case(
        chain(CONV, nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)),
        IMAGE,
        "1",
        4,
        ("3.weight", "3.bias"),
    ),
    "activation, pools, linear": Case(
        chain(
            CONV,
            nn.ReLU(),
            nn.MaxPool2d(2, 1, 1),
            nn.AvgPool2d(2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 2),
        ),
        IMAGE,
        "1",
        4,
        ("6.weight", "6.bias"),
    ),
    "activation, padded pool": Case(
        chain(CONV, nn.ReLU(), nn.AvgPool2d(3, 1, 1), nn.Conv2d(4, 2, 1)), IMAGE, "1", 4
    ),
    "activation, zeros, conv": Case(
        chain(CONV, nn.ReLU(), nn.ZeroPad2d(1), nn.Conv2d(4, 2, 3)), IMAGE, "1", 4
    ),
    "activation, reflection, conv": Case(
        chain(CONV, nn.ReLU(), nn.ReflectionPad2d(1), nn.Conv2d(4, 2, 3)),
        IMAGE,
        "1",
        4,
        ("3.weight", "3.bias"),
    ),
    "activation, BatchNorm": Case(
        chain(CONV, nn.ReLU(), NORM, nn.Conv2d(4, 2, 3, padding=1)),
        IMAGE,
        "1",
        4,
        ("2.running_mean", "2.running_var"),
    ),
    "sum of a block, two readers": Case(
        Forks, IMAGE, "block", 4, ("one.weight", "one.bias", "two.weight", "two.bias")
    ),
    "sum of a block, one reader that pads": Case(lambda: Forks(padding=1), IMAGE, "block", 4),
    "two readers": Case(lambda: Skip(bias=True), IMAGE, "conv", 4, ("conv.weight", "conv.bias")),
    "two readers, bare": Case(lambda: Skip(bias=False), IMAGE, "conv", 4),
    "shared weight": Case(Shared, (4,), "one", 4),
}

# Networks in which several corrections meet in the weights of one layer or norm.
MEETINGS: dict[str, Callable[[], nn.Module]] = {
    "pools, linear": chain(
        CONV, nn.ReLU(), nn.AvgPool2d(2, 1), nn.MaxPool2d(2, 1), nn.Flatten(), nn.Linear(16, 2)
    ),
    "pool, BatchNorm": chain(CONV, nn.ReLU(), nn.AvgPool2d(2), NORM, nn.Conv2d(4, 2, 1)),
    "pool, BatchNorm without weights": chain(
        CONV, nn.ReLU(), nn.AvgPool2d(2), nn.BatchNorm2d(4, affine=False), nn.Conv2d(4, 2, 1)
    ),
    "pool, padded conv": chain(CONV, nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(4, 2, 3, padding=1)),
    "pool, bare conv": chain(
        CONV, nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(4, 4, 1, bias=False), NORM, nn.ReLU()
    ),
    "norms on both sides": chain(
        BARE, NORM, nn.ReLU(), nn.ReflectionPad2d(1), nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3)
    ),
    "grouped": chain(CONV, nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 8, 2, groups=4), nn.ReLU()),
    "transposed": chain(CONV, nn.ReLU(), nn.MaxPool2d(2), nn.ConvTranspose2d(4, 2, 2), nn.ReLU()),
    "weight norm": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AvgPool2d(2), weight_norm(nn.Conv2d(4, 4, 2), dim=1)
    ),
    "a pool and a layer": PooledFork,
    "a block and two layers": Forks,
    "a block and a norm": Deep,
}
