"""The network as it is stored computes what its corrections say; and if not, that is seen."""

import pytest
import torch
from torch import nn

import repair_kernels as rk
from repair_kernels.alignment import align
from repair_kernels.calibration.folded_function import FoldedDeviation
from repair_kernels.errors import CalibrationWarning
from tests.goals import TAPS, pair, shifted

pytestmark = pytest.mark.usefixtures("torch_backend")


@pytest.mark.parametrize("family", sorted(TAPS))
def test_folded_weights_do_what_explicit_corrections_do(family: str) -> None:
    a, b = pair(family)
    x = shifted(family, 60)
    report = rk.repair(a, b, [x], variant="sequential", taps="all", assess=False).report
    assert report.folding_deviation is not None
    assert 0 <= report.folding_deviation < 1e-5
    assert "please report" not in str(report)
    assert f"deviates by {report.folding_deviation:.1e}" in str(report)


def test_a_weight_that_lacks_its_correction_is_seen() -> None:
    a, b = pair("plain")
    x = shifted("plain", 60)
    found = align(a, b, [x], variants=("forward",))
    merged = found.merge(0.5, "forward")
    whole = found.folded_deviation(merged)
    assert whole is not None
    assert whole.doubts() == ()
    with torch.no_grad():
        first = next(m for m in merged.model.modules() if isinstance(m, nn.BatchNorm2d))
        first.running_mean[0] += 1e-3 * first.running_var[0].sqrt()
    off = found.folded_deviation(merged)
    assert off is not None
    assert off.found > 100 * whole.found
    assert "must do what they do as layers of their own" in off.doubts()[0]


def test_a_repair_warns_of_a_network_that_deviates(monkeypatch) -> None:
    monkeypatch.setattr(
        "repair_kernels.alignment.folded_deviation", lambda *_: FoldedDeviation(1e-2, 1e-7)
    )
    a, b = pair("plain")
    with pytest.warns(CalibrationWarning, match="deviates by 1.0e-02 .* explains 1.0e-07: please"):
        report = rk.repair(a, b, [shifted("plain", 60)], variant="forward", assess=False).report
    assert report.folding_deviation == 1e-2


def test_without_corrections_or_without_verification_nothing_is_compared() -> None:
    a, b = pair("plain")
    x = shifted("plain", 60)
    for options in ({"variant": "none"}, {"variant": "forward", "verify": False}):
        assert rk.repair(a, b, [x], assess=False, **options).report.folding_deviation is None
