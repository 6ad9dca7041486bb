"""Accuracy and loss of a classifier on a labelled set.

    loss = mean_i -log softmax(f(x_i))[y_i],    accuracy = mean_i [argmax f(x_i) = y_i]

Both are means over all images, so the size of the batches does not change them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.datasets import batches


@torch.no_grad()
def evaluate(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    normalise: str | None = None,
    batch_size: int = 500,
    device: torch.device | str | None = None,
) -> dict[str, float]:
    """Return the cross-entropy, the accuracy and the error of `model`, in evaluation mode.

    Args:
        model: maps images to logits; its modes are as before afterwards.
        images: (n, channels, h, w).
        labels: (n,).
        normalise: set whose constants normalise the images, such as "fashion"; none by default.
        batch_size: images of a forward pass; it does not change what is computed.
        device: where the images go; by default where the model's first parameter is.

    Returns:
        {"loss": nats per image, "accuracy": in [0, 1], "error": 1 - accuracy}, summed in float64.

    Raises:
        ValueError: when there are no images.
    """
    if len(images) == 0:
        raise ValueError("`images` is empty; give at least one image")
    if device is None:
        device = next((p.device for p in model.parameters()), images.device)
    modes = {module: module.training for module in model.modules()}
    loss = torch.zeros((), dtype=torch.float64, device=device)
    correct = torch.zeros((), dtype=torch.int64, device=device)
    model.eval()
    try:
        for x, y in batches(images, labels, batch_size, normalise=normalise, device=device):
            logits = model(x).double()
            loss += F.cross_entropy(logits, y, reduction="sum")
            correct += (logits.argmax(dim=1) == y).sum()
    finally:
        for module, mode in modes.items():
            module.training = mode
    accuracy = correct.item() / len(images)
    return {"loss": loss.item() / len(images), "accuracy": accuracy, "error": 1 - accuracy}
