"""The loss of a corrected network beside that of the aligned one, on the same images.

    with labels y:           -log softmax(f(x))_y
    outputs (n, classes):    KL(p || softmax(f(x))),  p = (1-α) softmax(a(x)) + α softmax(b(x))
    other outputs:           |f(x) - t|² / mean |t|²,  t = (1-α) a(x) + α b(x)

a and b are the endpoints, f either of the two networks; each image counts the same. Labels are
class numbers if those of all images are, on all ranks: then they alone tell, else no label does.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from repair_kernels.ranks import Ranks

CROSS_ENTROPY, DIVERGENCE, SQUARED_ERROR = "cross-entropy", "divergence", "squared error"
CHANCE = 2.0
"""A loss is worse by more than chance if it is by so many standard errors."""
ROUNDING = 1e-4
"""And by more than so much of itself,"""
NOTHING = 1e-6
"""and by more than so many nats, or so much of the outputs' mean square: outputs that differ by a
thousandth diverge by half of it."""


@dataclass(frozen=True)
class Losses:
    """Mean losses on the calibration data.

    Attributes:
        kind: "cross-entropy" where all images have class numbers, else "divergence" (from the mean
            of the endpoints' probabilities) or "squared error" (to the mean of their outputs,
            relative)
        aligned: of the network that was aligned only
        corrected: of the corrected network
        standard_error: of the mean difference between the two
    """

    kind: str
    aligned: float
    corrected: float
    standard_error: float

    @property
    def is_worse(self) -> bool:
        """Whether the corrected network's loss is higher, by more than chance and rounding."""
        if not math.isfinite(self.aligned):
            return False
        allowed = max(CHANCE * self.standard_error, ROUNDING * abs(self.aligned), NOTHING)
        return not self.corrected - self.aligned <= allowed


class LossComparison:
    """The losses of two networks over a stream of batches.

    Args:
        alpha: weight of network b
        use_labels: whether labels may tell
    Attributes:
        is_partial: whether some images had class numbers and others had not, so that neither kind
            of loss is that of all of them: compare once more, without labels
    """

    def __init__(self, alpha: float, *, use_labels: bool = True):
        self.is_partial = False
        self._alpha = alpha
        self._use_labels = use_labels
        self._kind: str | None = None
        self._n = 0
        self._sums: Tensor | None = None
        self._size: Tensor | float = 0.0

    def needs_ends(self, output: object, labels: Tensor | None) -> bool:
        """Tell whether a batch's loss needs the endpoints' outputs, for its labels do not tell."""
        if self._kind in (DIVERGENCE, SQUARED_ERROR):
            return True
        logits = first_tensor(output)
        low, high = -1, -1
        if self._use_labels and labels is not None and logits.dim() == 2:
            low, high = int(labels.min()), int(labels.max())
        if 0 <= low <= high < logits.shape[-1]:
            return False
        self.is_partial = self._kind == CROSS_ENTROPY
        return not self.is_partial

    def add(self, corrected: object, outputs: list[object], labels: Tensor | None) -> None:
        """Take the outputs for one batch.

        Args:
            corrected: the corrected network's
            outputs: the aligned network's, and where they are needed the endpoints'
            labels: class numbers, or None
        """
        if self.is_partial:
            return
        found, aligned = first_tensor(corrected).double(), first_tensor(outputs[0]).double()
        if len(outputs) == 1 and labels is not None:
            kind, losses = CROSS_ENTROPY, [_cross_entropy(y, labels) for y in (found, aligned)]
        else:
            a, b = (first_tensor(output).double() for output in outputs[1:])
            kind, losses = self._against_ends(found, aligned, a, b)
        self._kind = kind
        difference = losses[0] - losses[1]
        sums = torch.stack(
            [losses[0].sum(), losses[1].sum(), difference.sum(), difference.square().sum()]
        )
        self._sums = sums if self._sums is None else self._sums + sums
        self._n += len(difference)

    def _against_ends(
        self, found: Tensor, aligned: Tensor, a: Tensor, b: Tensor
    ) -> tuple[str, list[Tensor]]:
        weights = 1 - self._alpha, self._alpha
        if found.dim() == 2 and found.shape[1] > 1:
            p = weights[0] * a.softmax(1) + weights[1] * b.softmax(1)
            return DIVERGENCE, [_divergence(p, y) for y in (found, aligned)]
        target = weights[0] * a + weights[1] * b
        self._size = self._size + target.square().sum() / max(1, target[:1].numel())
        return SQUARED_ERROR, [
            (y - target).square().flatten(1).mean(1) if y.dim() > 1 else (y - target).square()
            for y in (found, aligned)
        ]

    def merge(self, ranks: Ranks) -> None:
        """Take in what the other ranks saw."""
        sums = None if self._sums is None else self._sums.tolist()
        own = self._kind, self._n, sums, float(self._size), self.is_partial
        told = [one for one in ranks.exchange("losses", own) if one[0] is not None]
        if not told:
            return
        kinds = {kind for kind, *_ in told}
        self.is_partial = len(kinds) > 1 or any(partial for *_, partial in told)
        if self.is_partial:
            return
        [self._kind] = kinds
        self._n = sum(n for _, n, *_ in told)
        self._sums = torch.tensor([each[2] for each in told], dtype=torch.float64).sum(0)
        self._size = sum(size for *_, size, _ in told)

    def result(self) -> Losses | None:
        """Return the mean losses; None without images, or of some images only."""
        if self._sums is None or self._kind is None or self.is_partial:
            return None
        unit = float(self._size) / self._n if self._kind == SQUARED_ERROR else 1.0
        corrected, aligned, mean, square = (self._sums / self._n / (unit or 1.0)).tolist()
        variance = max(0.0, square / (unit or 1.0) - mean**2)
        return Losses(self._kind, aligned, corrected, math.sqrt(variance / self._n))


def first_tensor(output: object) -> Tensor:
    """Return a network's output, or the first tensor of floats in it."""
    if isinstance(output, Tensor):
        return output
    held = list(output.values()) if isinstance(output, Mapping) else output
    for value in held if isinstance(held, list | tuple) else ():
        if isinstance(value, Tensor) and value.is_floating_point():
            return value
        if isinstance(value, list | tuple | Mapping):
            return first_tensor(value)
    raise TypeError(f"a network must return tensors of floats; got {type(output).__name__}")


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(logits, labels.long(), reduction="none")


def _divergence(p: Tensor, logits: Tensor) -> Tensor:
    return functional.kl_div(logits.log_softmax(1), p, reduction="none").sum(1)
