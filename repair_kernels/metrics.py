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
from repair_kernels.ranks import Ranks


def classifier_metrics(
    batches: Iterable[Any],
    *,
    device: torch.device | str | None = None,
    process_group: Any = None,
) -> Callable[[nn.Module], dict[str, float]]:
    """Return a function that measures a classifier on labelled batches, as `sweep` asks for.

        loss = mean_i -log softmax(f(x_i))[y_i]         accuracy = mean_i [argmax f(x_i) = y_i]

    Args:
        batches: pairs of inputs and class numbers, such as a DataLoader; read once per network
        device: where the inputs go; default: where the network is
        process_group: a torch.distributed group, each of whose ranks gives its own part of the
            images and measures the same networks; parts may be uneven, and some empty. See
            docs/processes.md

    Returns:
        model -> {"accuracy", "error", "loss"}: in [0, 1], 1 - accuracy, and in nats, summed in
        float64 over all images of all ranks, so that the size of batches makes no difference; the
        same bits on every rank. The network is run in evaluation mode and left as it was.

    Raises:
        CalibrationDataError: (when measuring) without images, or a batch that is no labelled pair,
            or has a label that is no class of the network
        FailedRankError, LostRankError: (when measuring) another rank failed, or is gone

    Example:
        >>> data = [(torch.eye(2), torch.tensor([0, 1]))]
        >>> classifier_metrics(data)(nn.Identity())["accuracy"]
        1.0
    """
    ranks = Ranks(process_group)

    def evaluate(model: nn.Module) -> dict[str, float]:
        place = device or next((p.device for p in model.parameters()), torch.device("cpu"))
        with evaluating(model), torch.no_grad(), ranks.together("classifier_metrics"):
            own = _sums(model, batches, torch.device(place), ranks)
            loss, correct, n = map(sum, zip(*ranks.exchange("metrics", own), strict=True))
            if n == 0:
                raise CalibrationDataError(
                    "`batches` must hold at least one labelled image to measure on; it is empty, "
                    "or an iterator that is spent; pass a list or a DataLoader"
                )
        accuracy = correct / n
        return {"accuracy": accuracy, "error": 1 - accuracy, "loss": loss / n}

    return evaluate


def _sums(
    model: nn.Module, batches: Iterable[Any], place: torch.device, ranks: Ranks
) -> tuple[float, int, int]:
    """Return the sum of this rank's losses, how many answers are right, and of how many images."""
    loss = torch.zeros((), dtype=torch.float64, device=place)
    correct = torch.zeros((), dtype=torch.int64, device=place)
    n_images = 0
    watched = counted(batches, "evaluation", images_in(batches), keep=False)
    for number, batch in enumerate(watched):
        x, y = _labelled(batch, number)
        logits = model(x.to(place)).double()
        _check_classes(y, logits.shape, number)
        y = y.to(place, torch.int64)
        loss += functional.cross_entropy(logits, y, reduction="sum")
        correct += (logits.argmax(dim=1) == y).sum()
        n_images += len(y)
        ranks.meet()
    ranks.wait()
    return float(loss), int(correct), n_images


def _labelled(batch: Any, number: int) -> tuple[Tensor, Tensor]:
    held = batch.values() if isinstance(batch, Mapping) else batch
    values = list(held) if isinstance(held, Iterable) and not isinstance(held, Tensor) else []
    if len(values) < 2 or not all(isinstance(value, Tensor) for value in values[:2]):
        raise CalibrationDataError(
            f"measuring needs batches of inputs and class numbers; batch {number} is a "
            f"{type(batch).__name__} without two tensors; let the data yield (inputs, labels)"
        )
    return values[0], values[1]


def _check_classes(y: Tensor, logits: torch.Size, number: int) -> None:
    """Refuse labels that are not one class number per image, of a class that has an output."""
    if len(logits) != 2:
        raise CalibrationDataError(
            "measuring needs a network that returns one logit per image and class; it returns "
            f"{tuple(logits)} for batch {number}; wrap it so that it returns the logits alone"
        )
    n, classes = logits
    is_whole = not (y.is_floating_point() or y.is_complex() or y.dtype == torch.bool)
    if not is_whole or y.shape != (n,):
        raise CalibrationDataError(
            f"measuring needs class numbers, one whole number per image; batch {number} has "
            f"{n} images, and labels of shape {tuple(y.shape)} and {y.dtype}; turn one-hot labels "
            "into numbers (labels.argmax(dim=1)), and others into integers (labels.long())"
        )
    if n and not 0 <= int(y.min()) <= int(y.max()) < classes:
        raise CalibrationDataError(
            f"measuring needs class numbers from 0 to {classes - 1}, as the network has {classes} "
            f"outputs; batch {number} has some from {int(y.min())} to {int(y.max())}; take the "
            "data that the network was trained for, and number classes from 0"
        )
