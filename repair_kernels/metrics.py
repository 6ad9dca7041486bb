"""What a classifier is worth: loss and accuracy on labelled images."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from repair_kernels.batches import images_in
from repair_kernels.errors import CalibrationDataError
from repair_kernels.graph.network import evaluating
from repair_kernels.progress import counted


def classifier_metrics(
    batches: Iterable[Any], *, device: torch.device | str | None = None
) -> Callable[[nn.Module], dict[str, float]]:
    """Return a function that measures a classifier on labelled batches, as `sweep` asks for.

        loss = mean_i -log softmax(f(x_i))[y_i]         accuracy = mean_i [argmax f(x_i) = y_i]

    Args:
        batches: pairs of inputs and class numbers, such as a DataLoader; read once per network
        device: where the inputs go; default: where the network is

    Returns:
        model -> {"accuracy", "error", "loss"}: in [0, 1], 1 - accuracy, and in nats, summed in
        float64 over all images, so that the size of batches makes no difference. The network is
        run in evaluation mode and left as it was.

    Raises:
        CalibrationDataError: (when measuring) without images, or a batch that is no labelled pair

    Example:
        >>> data = [(torch.eye(2), torch.tensor([0, 1]))]
        >>> classifier_metrics(data)(nn.Identity())["accuracy"]
        1.0
    """

    def evaluate(model: nn.Module) -> dict[str, float]:
        place = device or next((p.device for p in model.parameters()), torch.device("cpu"))
        loss = torch.zeros((), dtype=torch.float64, device=place)
        correct = torch.zeros((), dtype=torch.int64, device=place)
        n_images = 0
        watched = counted(batches, "evaluation", images_in(batches), keep=False)
        with evaluating(model), torch.no_grad():
            for number, batch in enumerate(watched):
                x, y = _labelled(batch, number)
                logits, y = model(x.to(place)).double(), y.to(place)
                loss += functional.cross_entropy(logits, y, reduction="sum")
                correct += (logits.argmax(dim=1) == y).sum()
                n_images += len(y)
        if n_images == 0:
            raise CalibrationDataError(
                "`batches` must hold at least one labelled image to measure on; it is empty, or an "
                "iterator that is spent; pass a list or a DataLoader"
            )
        accuracy = int(correct) / n_images
        return {"accuracy": accuracy, "error": 1 - accuracy, "loss": float(loss) / n_images}

    return evaluate


def _labelled(batch: Any, number: int) -> tuple[Tensor, Tensor]:
    held = batch.values() if isinstance(batch, Mapping) else batch
    values = list(held) if isinstance(held, Iterable) and not isinstance(held, Tensor) else []
    if len(values) < 2 or not all(isinstance(value, Tensor) for value in values[:2]):
        raise CalibrationDataError(
            f"measuring needs batches of inputs and class numbers; batch {number} is a "
            f"{type(batch).__name__} without two tensors; let the data yield (inputs, labels)"
        )
    return values[0], values[1]
