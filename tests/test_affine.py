"""`ChannelAffine`: y = scale x + shift for every channel."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from repair_kernels import ChannelAffine


@given(st.integers(1, 4), st.integers(-4, 3), st.integers(0, 100))
def test_every_channel_is_scaled_and_shifted(dims: int, channel_dim: int, seed: int) -> None:
    channel_dim = channel_dim % dims
    generator = torch.Generator().manual_seed(seed)
    shape = torch.randint(1, 5, (dims,), generator=generator).tolist()
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    scale, shift = torch.randn(2, shape[channel_dim], generator=generator, dtype=torch.float64)
    y = ChannelAffine(scale, shift, channel_dim)(x)
    channels = x.movedim(channel_dim, -1).numpy() * scale.numpy() + shift.numpy()
    wanted = torch.from_numpy(channels).movedim(-1, channel_dim)
    torch.testing.assert_close(y, wanted, rtol=1e-14, atol=1e-14)


def test_the_last_dimension_may_be_counted_from_the_end() -> None:
    layer = ChannelAffine(torch.tensor([2.0, 3.0]), torch.zeros(2), channel_dim=-1)
    assert layer(torch.ones(1, 4, 2))[0, 0].tolist() == [2.0, 3.0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_the_dtype_of_the_activation_is_kept(dtype: torch.dtype) -> None:
    layer = ChannelAffine(torch.ones(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))
    x = torch.randn(2, 3, 4).to(dtype)
    assert layer(x).dtype == dtype
    assert torch.equal(layer(x), x)


def test_the_activation_is_left_as_it_was() -> None:
    x = torch.ones(2, 3)
    ChannelAffine(2 * torch.ones(3), torch.ones(3))(x)
    assert torch.equal(x, torch.ones(2, 3))


def test_values_are_kept_in_float64_and_need_no_gradient() -> None:
    scale = torch.full((2,), 1 + 2**-40, dtype=torch.float64)
    layer = ChannelAffine(scale, scale)
    assert torch.equal(layer.scale, scale)
    assert not any(p.requires_grad for p in layer.parameters())


def test_a_layer_does_not_change_with_the_tensors_it_was_made_of() -> None:
    scale, shift = torch.ones(2), torch.ones(2)
    layer = ChannelAffine(scale, shift)
    scale.fill_(7)
    shift.fill_(7)
    assert layer(torch.ones(1, 2)).tolist() == [[2.0, 2.0]]


def test_copies_and_state_dicts_carry_the_values() -> None:
    layer = ChannelAffine(torch.tensor([2.0]), torch.tensor([3.0]))
    fresh = ChannelAffine(torch.ones(1), torch.zeros(1))
    fresh.load_state_dict(layer.state_dict())
    for twin in (copy.deepcopy(layer), fresh):
        assert twin(torch.ones(1, 1)).item() == 5.0


def test_the_representation_shows_the_channels() -> None:
    assert repr(ChannelAffine(torch.ones(3), torch.ones(3), 2)) == "ChannelAffine(3, channel_dim=2)"
