"""Accuracy and loss of a classifier on a labelled set of images."""

import torch
from torch import Tensor, nn

from models.datasets import batches
from repair_kernels.metrics import classifier_metrics


def evaluate(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    normalise: str | None = None,
    batch_size: int = 500,
    device: torch.device | str | None = None,
) -> dict[str, float]:
    """Return the cross-entropy, the accuracy and the error of `model`; see `classifier_metrics`.

    Args:
        model: maps images to logits; its modes are as before afterwards.
        images: (n, channels, h, w).
        labels: (n,).
        normalise: set whose constants normalise the images, such as "fashion"; none by default.
        batch_size: images of a forward pass; it does not change what is computed.
        device: where the images go; by default where the model's first parameter is.

    Returns:
        {"accuracy": in [0, 1], "error": 1 - accuracy, "loss": nats per image}.

    Raises:
        ValueError: when there are no images.
    """
    labelled = batches(images, labels, batch_size, normalise=normalise)
    return classifier_metrics(labelled, device=device)(model)
