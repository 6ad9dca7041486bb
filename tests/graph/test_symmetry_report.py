"""What a graph's report says, and how it counts."""

import pytest
import torch
from torch import nn

import repair_kernels as rk
from tests.equivariance import Calls


def report(model: nn.Module, *shape: int) -> rk.SymmetryReport:
    return rk.trace(model.eval(), torch.zeros(2, *shape)).report()


@pytest.fixture(scope="module")
def unruled() -> rk.SymmetryReport:
    """A network with an operator that has no rule behind its first layer."""
    model = Calls(
        lambda self, x: self.last(
            self.middle(self.first(x).renorm(2, 1, 1.0)).tanh().renorm(1, 0, 9.0)
        ),
        first=nn.Linear(3, 5),
        middle=nn.Linear(5, 8),
        last=nn.Linear(8, 2),
    )
    return report(model, 3)


def test_a_weights_element_moves_if_any_of_its_axes_does():
    # 24 and 8 elements of the first layer, 16 of the last one's weight; not its bias of 2.
    mlp = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    assert report(mlp, 3).share_of_weights == pytest.approx(48 / 50)


def test_the_share_of_channels_counts_positions_on_axes_and_none_of_a_kernel():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 3))
    # 3 of the image and 2 + 2 of the output stay; 8 of two kernels, a bias and four vectors move.
    assert report(model, 3, 6, 6).share_of_channels == pytest.approx(56 / 63)


def test_an_axis_of_which_a_part_moves_counts_by_its_positions():
    def run(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        return torch.cat([y[:, :2], self.last(y[:, 2:])], 1)

    found = report(Calls(run, first=nn.Linear(3, 6, bias=False), last=nn.Linear(4, 1)), 3)
    # Rows 2 to 5 of the first weight (12 of 18), all of the last (4), not its bias.
    assert found.share_of_weights == pytest.approx(16 / 23)
    assert "first.weight[0]                                2 of 6" in str(found)


def test_operators_without_a_rule_are_named_first_with_their_nodes(unruled):
    assert unruled.unknown == {"aten.renorm.default": ("renorm", "renorm_1")}
    lines = str(unruled).splitlines()
    assert lines[0].startswith("operators without a rule")
    assert lines[1].split() == ["aten.renorm.default", "at", "renorm", "and", "1", "more"]


def test_every_axis_that_stays_is_listed_with_its_reason(unruled):
    assert unruled.pins["first.weight[0]"].startswith("aten.renorm.default (renorm): no rule")
    for axis, why in unruled.pins.items():
        assert any(axis in line and why in line for line in str(unruled).splitlines())


def test_groups_inside_of_groups_are_told_with_the_outer_one():
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.GroupNorm(2, 6), nn.Conv2d(6, 4, 1))
    (row,) = (line for line in str(report(model, 3, 4, 4)).splitlines() if line.startswith("0 "))
    assert " ".join(row.split()) == "0 2 1, each member with 3 inside of it"


def test_a_network_without_groups_says_so():
    found = report(nn.Sequential(nn.Linear(3, 4)), 3)
    assert str(found).startswith("no permutation groups\n0.0 % of the weights can move")
    assert found.share_of_channels == 0


def test_a_network_without_weights_has_a_report():
    found = report(nn.Sequential(nn.ReLU()), 3)
    assert found.share_of_weights == found.share_of_channels == 0
    assert "cannot move, wholly or in part:\n  none" in str(found)
