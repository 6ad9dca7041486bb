"""The eager forms that the benches compare with compute the same thing as the ops."""

import pytest
import torch

from bench import eager
from bench.forms import FORMS, worst_error
from repair_kernels import ops


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("way", [eager.two_pass, eager.best, eager.published])
@pytest.mark.parametrize("layout", ["rows", "nchw", "channels_last"])
def test_eager_forms_are_right(form, way, layout):
    shape = (40, 5) if layout == "rows" else (4, 5, 3, 7)
    a, b = torch.randn(2, *shape) + 0.5
    if layout == "channels_last":
        a, b = (x.contiguous(memory_format=torch.channels_last) for x in (a, b))
    truth = ops.paired_moments(a.double(), b.double(), backend="torch", **FORMS[form])
    assert worst_error(way(a, b, form), truth, form) < 2e-5


def test_the_covariance_of_both_is_the_joint_form():
    a, b = torch.randn(2, 4, 5, 3, 7)
    truth = ops.paired_moments(a.double(), b.double(), backend="torch", joint=True)
    assert worst_error(eager.covariance(a, b), truth, "joint") < 2e-5
