"""Classifiers' metrics: loss and accuracy on labelled images."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from repair_kernels.errors import CalibrationDataError
from repair_kernels.metrics import classifier_metrics


def labelled(n: int = 23) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 5), torch.randint(0, 4, (n,))


def test_a_classifiers_metrics_are_those_of_the_definition() -> None:
    (x, y), model = labelled(), nn.Linear(5, 4)
    logits = model(x).detach().double().numpy()
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    metrics = classifier_metrics([(x, y)])(model)
    assert metrics["loss"] == pytest.approx(-logs[np.arange(len(y)), y].mean(), rel=1e-12)
    assert metrics["accuracy"] == (logits.argmax(axis=1) == y.numpy()).mean()
    assert metrics["error"] == 1 - metrics["accuracy"]


@pytest.mark.parametrize("sizes", [[1] * 23, [10, 13], [0, 22, 1]])
def test_a_classifiers_metrics_do_not_depend_on_the_batches(sizes: list[int]) -> None:
    (x, y), model = labelled(), nn.Linear(5, 4)
    batches = list(zip(x.split(sizes), y.split(sizes), strict=True))
    whole = classifier_metrics([(x, y)])(model)
    assert classifier_metrics(batches)(model) == pytest.approx(whole, rel=1e-6)


def test_a_classifier_is_measured_in_evaluation_mode_and_left_in_its_own() -> None:
    (x, y), model = labelled(), nn.Sequential(nn.BatchNorm1d(5), nn.Dropout(), nn.Linear(5, 4))
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    measure = classifier_metrics([{"image": x, "label": y}])
    assert measure(model) == measure(model)
    assert model.training
    assert all(torch.equal(model.state_dict()[key], before[key]) for key in before)


@pytest.mark.parametrize("batches", [[], [(torch.ones(0, 5), torch.ones(0, dtype=torch.int64))]])
def test_measuring_needs_images(batches: list) -> None:
    with pytest.raises(CalibrationDataError, match="at least one labelled image .*; pass a list"):
        classifier_metrics(batches)(nn.Linear(5, 4))


@pytest.mark.parametrize(
    "batch", [torch.ones(2, 5), (torch.ones(2, 5),), (torch.ones(2, 5), [0, 1])]
)
def test_measuring_needs_labels(batch: object) -> None:
    match = (
        "needs batches of inputs and class numbers; batch 0 is a .* without two tensors; let the"
    )
    with pytest.raises(CalibrationDataError, match=match):
        classifier_metrics([batch])(nn.Linear(5, 4))


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([0.0, 1.0], "one whole number per image; batch 0 has 2 images, .* torch.float32; turn"),
        ([[0], [1]], r"labels of shape \(2, 1\) and torch.int64; turn one-hot labels into"),
        ([0, 4], "from 0 to 3, .* has 4 outputs; batch 0 has some from 0 to 4; take the data"),
        ([-1, 2], "batch 0 has some from -1 to 2; .* number classes from 0"),
    ],
)
def test_measuring_needs_numbers_of_the_networks_classes(labels: list, said: str) -> None:
    with pytest.raises(CalibrationDataError, match=said):
        classifier_metrics([(torch.ones(2, 5), torch.tensor(labels))])(nn.Linear(5, 4))


def test_measuring_needs_one_row_of_logits_per_image() -> None:
    with pytest.raises(CalibrationDataError, match=r"one logit .*returns \(10,\) .*; wrap it"):
        classifier_metrics([(torch.ones(2, 5), torch.zeros(2).long())])(nn.Flatten(0))


def test_class_numbers_may_be_of_any_whole_type() -> None:
    (x, y), model = labelled(), nn.Linear(5, 4)
    expected = classifier_metrics([(x, y)])(model)
    for dtype in (torch.uint8, torch.int16, torch.int32):
        assert classifier_metrics([(x, y.to(dtype))])(model) == expected
