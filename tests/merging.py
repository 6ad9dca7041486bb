"""A pair of small networks to merge, data that counts its passes, and a metric."""

import functools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from tests.networks import FAMILIES

VARIANTS = ("none", "forward", "closed_form", "sequential", "distilled")


class Counted:
    """Batches that count how often they are read."""

    def __init__(self, batches: Sequence[Tensor]) -> None:
        self.batches, self.passes, self.read = batches, 0, 0

    def __iter__(self) -> Iterator[Tensor]:
        self.passes += 1
        for batch in self.batches:
            self.read += 1
            yield batch


def mlps() -> tuple[nn.Module, nn.Module, Tensor]:
    family = FAMILIES["mlp"]
    return family.network(0), family.network(1), family.inputs(40) + 0.5


@functools.cache
def loss_inputs() -> Tensor:
    return FAMILIES["mlp"].inputs(25, seed=9)


def evaluate(model: nn.Module) -> dict[str, float]:
    with torch.no_grad():
        return {"loss": float(model(loss_inputs()).square().mean())}
