"""The emulated tensor cores, and what the table calls an error."""

import numpy as np
import pytest
import torch

from bench import error_table


def test_rounding_to_tf32_keeps_ten_bits():
    x = np.float32([1 + 2**-10, 1 + 2**-11, 1 + 2**-12, -1 - 2**-11, 0.0])
    kept = error_table.rounded_to_tf32(x)
    assert kept.tolist() == [1 + 2**-10, 1 + 2**-10, 1.0, -1 - 2**-10, 0.0]


@pytest.mark.parametrize(("precision", "allowed"), [("tf32", 1e-4), ("tf32x3", 1e-6)])
def test_emulation_is_as_good_as_its_precision(precision, allowed):
    a, b = error_table.activations(5000, 1e2, torch.float32)
    truth = error_table.truth_of(a, b)
    errors = error_table.errors_of(error_table.emulated(a, b, precision), truth, 5000)
    assert errors["cross"] < allowed
    assert max(errors["m2"], errors["mean"]) < 1e-6


def test_the_textbook_shortcut_is_shown_to_fail():
    a, b = error_table.activations(5000, 1e4, torch.float32)
    truth = error_table.truth_of(a, b)
    assert error_table.errors_of(error_table.raw_float32(a, b), truth, 5000)["cross"] > 1


def test_a_channel_that_rounding_made_constant_has_no_error():
    a, b = error_table.activations(100, 1e4, torch.bfloat16)
    truth = error_table.truth_of(a, b)
    assert error_table.errors_of(truth, truth, 100) is None
