"""What networks answer: the endpoints' outputs on the calibration images, and how far one is off.

outputs (n, classes):    D = mean_x KL(p || softmax(f(x))),
                         p = (1-α) softmax(a(x)) + α softmax(b(x))
other outputs:           D = mean |f(x) - t|² / mean |t|²,   t = (1-α) a(x) + α b(x)

a and b are the endpoints, f the network in question.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from repair_kernels.calibration.output_losses import first_tensor
from repair_kernels.graph.execution import as_mapping, execute
from repair_kernels.graph.network import NetworkGraph, State
from repair_kernels.progress import counted
from repair_kernels.ranks import ALONE, Ranks


@dataclass(frozen=True)
class Answers:
    """Images, and the interpolated answers of both endpoints to them.

    Attributes:
        images: (n, ...), in host memory
        wanted: class probabilities (n, classes), or outputs, float32 or, of networks in float64,
            float64; where the networks ran
        are_probabilities: which of the two
        power: mean |t|² over all outputs, of all ranks' images
    """

    images: Tensor
    wanted: Tensor
    are_probabilities: bool
    power: float

    def batch(self, index: Tensor) -> Tensor:
        """Return some of the images, where the networks ran; floats as the answers are."""
        images = self.images[index]
        dtype = self.wanted.dtype if images.is_floating_point() else images.dtype
        return images.to(self.wanted.device, dtype)

    def disagreement(self, output: object, index: Tensor) -> Tensor:
        """Return D of a network's output for some of the images, a scalar."""
        found, wanted = first_tensor(output), self.wanted[index.to(self.wanted.device)]
        if self.are_probabilities:
            return functional.kl_div(found.log_softmax(dim=1), wanted, reduction="batchmean")
        return (found - wanted).square().mean() / max(self.power, torch.finfo(wanted.dtype).tiny)


@dataclass(frozen=True)
class EndpointAnswers:
    """Images, and what each endpoint answers to them; `at` interpolates."""

    images: Tensor
    a: Tensor
    b: Tensor
    are_probabilities: bool

    def at(self, alpha: float, ranks: Ranks = ALONE) -> Answers:
        """Return the answers wanted of the network at alpha, the weight of network b.

        Args:
            ranks: whose images the endpoints were asked about, each about its own
        """
        wanted = self.a.lerp(self.b, alpha)
        own = float(wanted.double().square().sum()), wanted.numel()
        sums, counts = zip(*ranks.exchange("answers", own), strict=True)
        return Answers(self.images, wanted, self.are_probabilities, sum(sums) / sum(counts))


def endpoint_answers(
    graph: NetworkGraph,
    ends: tuple[State, State],
    data: Iterable[Tensor],
    example: Tensor | None = None,
) -> EndpointAnswers:
    """Run both endpoints over the data once, and keep the data.

    Args:
        ends: weights of both endpoints
        example: an image, from which the answers' shape is taken where there are no data
    """
    images: list[Tensor] = []
    answers: tuple[list[Tensor], list[Tensor]] = [], []
    are_probabilities = False
    placed = None
    n = 0
    with torch.no_grad():
        for batch, is_asked in _or_else(counted(data, "endpoints' answers"), example):
            placed = placed or [as_mapping(state, batch.device) for state in ends]
            images.append(batch.cpu())
            n += len(batch) if is_asked else 0
            for held, output in zip(answers, execute(graph, placed, batch), strict=True):
                found = first_tensor(output)
                found = found.to(torch.promote_types(found.dtype, torch.float32))
                are_probabilities = found.dim() == 2 and found.shape[1] > 1
                held.append(found.softmax(dim=1) if are_probabilities else found)
    a, b = (torch.cat(held)[:n] for held in answers)
    return EndpointAnswers(torch.cat(images)[:n], a, b, are_probabilities)


def _or_else(data: Iterable[Tensor], example: Tensor | None) -> Iterator[tuple[Tensor, bool]]:
    """Yield each batch and True; if there is none, the example, if there is one, and False."""
    is_empty = True
    for batch in data:
        is_empty = False
        yield batch, True
    if is_empty and example is not None:
        yield example, False
