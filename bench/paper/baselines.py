"""What split-data training is compared with.

    ensemble(alpha)   softmax of (1 - alpha) logits_a + alpha logits_b
    bias-corrected    logits - log p(class among the network's own training images)
    full data         one network, trained on all images

An endpoint's bias-corrected form has lost what only the shift of classes between its data and the
test set costs; what is left is what the other half of the data is worth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repair_kernels.graph.network import evaluating


def logits_of(model: nn.Module, batches: Any) -> tuple[Tensor, Tensor]:
    """Return a network's outputs on labelled batches, in float64, and the labels."""
    with evaluating(model), torch.no_grad():
        found = [(model(x).double().cpu(), y.cpu()) for x, y in batches]
    return torch.cat([x for x, _ in found]), torch.cat([y for _, y in found])


def metrics(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Return the accuracy and the cross-entropy of logits."""
    accuracy = float((logits.argmax(1) == labels).double().mean())
    return {"accuracy": accuracy, "loss": float(F.cross_entropy(logits, labels))}


def bias_corrected(logits: Tensor, training_labels: Tensor) -> Tensor:
    """Return the logits as of a network whose training set had the same number of every class."""
    counts = torch.bincount(training_labels.cpu(), minlength=logits.shape[1]).double()
    # Classes that were not seen at all are left as they are: nothing is known of them.
    share = (counts / counts.mean()).where(counts > 0, torch.ones(()).double())
    return logits - share.log()


def split_baselines(
    models: Sequence[nn.Module],
    training_labels: Sequence[Tensor],
    full: Callable[[], nn.Module],
    tests: Any,
    alphas: Sequence[float],
) -> dict[str, Any]:
    """Return the baselines of a pair that was trained on split data.

    Args:
        models: both endpoints
        training_labels: of the images of each
        full: returns the network that was trained on all images
        tests: labelled batches
        alphas: of the ensembles
    """
    (logits_a, labels), (logits_b, _) = (logits_of(model, tests) for model in models)
    ensembles = [metrics((1 - t) * logits_a + t * logits_b, labels) for t in alphas]
    ends = zip((logits_a, logits_b), training_labels, strict=True)
    corrected = [metrics(bias_corrected(logits, seen), labels) for logits, seen in ends]
    return {
        "ensemble": {
            "alphas": list(alphas),
            **{name: [row[name] for row in ensembles] for name in ("accuracy", "loss")},
        },
        "bias_corrected": corrected,
        "full": metrics(*logits_of(full(), tests)),
    }
