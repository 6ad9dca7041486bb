"""What networks answer: the endpoints' outputs on the calibration images, and how far one is off.

outputs (n, classes):    D = mean_x KL(p || softmax(f(x))),
                         p = (1-α) softmax(a(x)) + α softmax(b(x))
other outputs:           D = mean |f(x) - t|² / mean |t|²,   t = (1-α) a(x) + α b(x)

a and b are the endpoints, f the network in question.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from repair_kernels.execution import as_mapping, execute
from repair_kernels.graph import NetworkGraph, State
from repair_kernels.output_losses import first_tensor


@dataclass(frozen=True)
class Answers:
    """Images, and the interpolated answers of both endpoints to them.

    Attributes:
        images: (n, ...), in host memory
        wanted: class probabilities (n, classes), or outputs; where the networks ran
        are_probabilities: which of the two
    """

    images: Tensor
    wanted: Tensor
    are_probabilities: bool

    def batch(self, index: Tensor) -> Tensor:
        """Return some of the images, where the networks ran, in float32."""
        return self.images[index].to(self.wanted.device, torch.float32)

    def disagreement(self, output: object, index: Tensor) -> Tensor:
        """Return D of a network's output for some of the images, a scalar."""
        found, wanted = first_tensor(output), self.wanted[index.to(self.wanted.device)]
        if self.are_probabilities:
            return functional.kl_div(found.log_softmax(dim=1), wanted, reduction="batchmean")
        size = self.wanted.square().mean().clamp_min(torch.finfo(wanted.dtype).tiny)
        return (found - wanted).square().mean() / size


def endpoint_answers(
    graph: NetworkGraph, ends: tuple[State, State], alpha: float, data: Iterable[Tensor]
) -> Answers:
    """Run both endpoints over the data, and keep the data.

    Args:
        ends: weights of both endpoints, in one order of channels
        alpha: weight of network b
    """
    images, wanted = [], []
    are_probabilities = False
    placed = None
    with torch.no_grad():
        for batch in data:
            placed = placed or [as_mapping(state, batch.device) for state in ends]
            a, b = (first_tensor(output).float() for output in execute(graph, placed, batch))
            are_probabilities = a.dim() == 2 and a.shape[1] > 1
            if are_probabilities:
                a, b = a.softmax(dim=1), b.softmax(dim=1)
            images.append(batch.cpu())
            wanted.append(a.lerp(b, alpha))
    return Answers(torch.cat(images), torch.cat(wanted), are_probabilities)
