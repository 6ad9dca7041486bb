"""Cases of the rules in `rules/reductions.py`: sums, maxima, norms; places and scans."""

import torch
from torch import Tensor, nn

from tests.rules.case import Case, around, calls, conv


def by(reduce) -> Case:
    """Divide by what a reduction returns, with dimensions kept."""
    return Case(around(lambda _, y: y / (2 + reduce(y).abs())), (6,))


def pooled(reduce) -> Case:
    """Reduce over space and classify."""
    model = {"conv": conv(3, 6), "fc": nn.Linear(6, 4)}
    return Case(calls(lambda self, x: self.fc(reduce(self.conv(x).tanh())), **model), (6,))


def spread(y: Tensor) -> Tensor:
    variance, mean = torch.var_mean(y, 1, keepdim=True, correction=0)
    return variance + mean


MOVING = {
    "mean over space": pooled(lambda y: y.mean((2, 3))),
    "sum over space": Case(around(lambda _, y: y * y.sum(-1, keepdim=True)), (6,)),
    "largest over space": pooled(lambda y: y.amax((2, 3))),
    "smallest over space": pooled(lambda y: y.flatten(2).min(2).values),
    "median over space": pooled(lambda y: y.flatten(2).median(-1).values),
    "norm over space": by(lambda y: y.norm(dim=(2, 3), keepdim=True)),
    "deviation over space": by(lambda y: y.std((2, 3), unbiased=False, keepdim=True)),
    "logsumexp over space": pooled(lambda y: y.logsumexp((2, 3))),
    "product over space": pooled(lambda y: y.mean(2).prod(2)),
    "mean over channels": by(lambda y: y.mean(1, keepdim=True)),
    "sum over channels": by(lambda y: y.sum(1, keepdim=True)),
    "largest over channels": by(lambda y: y.max(1, keepdim=True).values),
    "largest and smallest over channels": by(lambda y: y.amax(1, True) - y.amin(1, True)),
    "variance over channels": by(lambda y: y.var(1, keepdim=True)),
    "variance and mean over channels": by(spread),
    "norm over channels": by(lambda y: torch.linalg.vector_norm(y, 3, 1, keepdim=True)),
    "mean over everything": by(lambda y: y.mean((1, 2, 3), keepdim=True)),
    "deviation over everything": by(lambda y: y.std(unbiased=False)),
    "spatial attention": Case(
        around(
            lambda self, y: (
                y * self.gate(torch.cat([y.mean(1, True), y.amax(1, True)], 1)).sigmoid()
            ),
            gate=conv(2, 1, 3, padding=1),
        ),
        (6,),
    ),
    "sorted over space": Case(
        around(lambda _, y: y + y.flatten(2).sort(-1).values.unflatten(2, (8, 8))), (6,)
    ),
    "summed up over space": Case(around(lambda _, y: y.cumsum(3).cumprod(2)), (6,)),
    "top of space": pooled(lambda y: y.flatten(2).topk(3, -1).values.mean(2)),
}

PINNED = {
    "place of the largest channel": Case(
        around(lambda _, y: y + y.argmax(1, keepdim=True)), pinned_by="aten.argmax"
    ),
    "place and value of the largest channel": Case(
        around(lambda _, y: y + sum(y.max(1, keepdim=True))), pinned_by="aten.max.dim"
    ),
    "sum up to a channel": Case(around(lambda _, y: y.cumsum(1)), pinned_by="aten.cumsum"),
    "sorted channels": Case(around(lambda _, y: y.sort(1).values), pinned_by="aten.sort"),
}
