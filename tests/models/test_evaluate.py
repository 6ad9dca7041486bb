"""Evaluation: against its definition, and that it leaves the model as it was."""

import pytest
import torch
from torch import nn

from models.evaluate import evaluate


def test_results_are_the_means_over_all_images_at_any_batch_size() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 4)).double()
    x, y = torch.randn(11, 1, 2, 3).double(), torch.arange(11) % 4
    p = torch.softmax(model(x), 1)[torch.arange(11), y]
    for batch_size in (1, 4, 11, 100):
        result = evaluate(model, x, y, batch_size=batch_size)
        assert result["loss"] == pytest.approx(-p.log().mean().item(), abs=1e-12)
        assert result["accuracy"] == pytest.approx((model(x).argmax(1) == y).double().mean().item())
        assert result["error"] == pytest.approx(1 - result["accuracy"])


def test_evaluation_mode_is_used_and_undone() -> None:
    frozen = nn.BatchNorm2d(1).eval()
    model = nn.Sequential(frozen, nn.Dropout(0.5), nn.Flatten(), nn.Linear(4, 2)).train()
    frozen.eval()
    before = frozen.running_mean.clone()
    x, y = torch.randn(6, 1, 2, 2) + 3, torch.zeros(6, dtype=torch.int64)
    assert evaluate(model, x, y) == evaluate(model, x, y)
    assert torch.equal(frozen.running_mean, before)
    assert [module.training for module in model] == [False, True, True, True]


def test_bytes_are_normalised_by_the_sets_constants() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    images, labels = torch.full((3, 1, 28, 28), 51, dtype=torch.uint8), torch.tensor([0, 1, 2])
    by_hand = evaluate(model, (images / 255 - 0.286) / 0.353, labels)
    named = evaluate(model, images, labels, normalise="fashion")
    assert named["loss"] == pytest.approx(by_hand["loss"], rel=1e-5)


def test_no_images_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one labelled image"):
        evaluate(nn.Flatten(), torch.zeros(0, 1, 2, 2), torch.zeros(0))
