"""Interpolation: the ends are the networks to the bit, what lies between is the formula."""

import functools
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import repair_kernels as rk
from repair_kernels import ops
from repair_kernels.errors import ArchitectureMismatchError, ArgumentError
from repair_kernels.graph.network import state_of
from repair_kernels.graph.permutation import permute_state
from repair_kernels.graph.symmetry import AxisSlice
from repair_kernels.interpolation import _in_segments, interpolate_state, interpolate_states
from tests.budget import LERP_FLOOR
from tests.networks import FAMILIES, assert_same, lively, snapshot

pytestmark = pytest.mark.usefixtures("torch_backend")
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def pair(dtype: torch.dtype = torch.float32) -> tuple[nn.Module, nn.Module]:
    family = FAMILIES["vgg_batch_norm"]
    a, b = family.network(0).to(dtype), family.network(1).to(dtype)
    for model, count in ((a, 100), (b, 37)):
        for name, buffer in model.named_buffers():
            if name.endswith("num_batches_tracked"):
                buffer.fill_(count)
    return a, b


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("alpha", [0, 1, 0.0, 1.0])
def test_the_ends_are_the_networks_bit_for_bit(dtype: torch.dtype, alpha: float) -> None:
    a, b = pair(dtype)
    end = rk.interpolate(a, b, alpha)
    assert_same(snapshot(end), snapshot(b if alpha else a))


@pytest.mark.parametrize("alpha", [0, 1])
def test_the_ends_keep_zeros_of_either_sign_and_huge_values(alpha: float) -> None:
    models = [nn.Linear(2, 2) for _ in range(2)]
    values = [[[-0.0, 3e38], [1e-45, -3e38]], [[0.0, -3e38], [-1e-45, 3e38]]]
    for model, rows in zip(models, values, strict=True):
        model.weight.data = torch.tensor(rows)
    end, wanted = rk.interpolate(*models, alpha).weight, models[alpha].weight
    assert torch.equal(end.view(torch.int32), wanted.view(torch.int32))


@settings(max_examples=25)
@given(st.floats(0, 1), st.sampled_from(DTYPES))
def test_what_lies_between_is_the_formula(alpha: float, dtype: torch.dtype) -> None:
    a, b = (lively(nn.Linear(7, 5), seed).to(dtype) for seed in (0, 1))
    between = rk.interpolate(a, b, alpha, backend="torch")
    for name, tensor in between.named_parameters():
        x, y = a.get_parameter(name).double(), b.get_parameter(name).double()
        wanted = (1 - alpha) * x + alpha * y
        allowed = LERP_FLOOR[dtype] * (x.abs() + y.abs())
        assert ((tensor.double() - wanted).abs() <= allowed).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_middle_is_within_one_rounding(dtype: torch.dtype) -> None:
    a, b = pair(dtype)
    for name, tensor in rk.interpolate(a, b).named_parameters():
        x, y = a.get_parameter(name).double(), b.get_parameter(name).double()
        # Halves are exact, so that only the sum is rounded: to the nearest, or its neighbour where
        # float32 in between rounds first.
        wanted = ((x + y) / 2).to(dtype)
        step = torch.finfo(dtype).eps * wanted.abs()
        assert ((tensor.double() - wanted.double()).abs() <= step.double()).all(), name


@given(st.floats(0, 1), st.sampled_from(DTYPES))
@settings(max_examples=25)
def test_a_network_with_itself_is_itself(alpha: float, dtype: torch.dtype) -> None:
    model = lively(nn.Linear(7, 5), 0).to(dtype)
    between = rk.interpolate(model, model, alpha, backend="torch")
    assert torch.equal(between.weight, model.weight)


def test_swapping_the_networks_mirrors_alpha() -> None:
    a, b = pair(torch.float64)
    there, back = rk.interpolate(a, b, 0.25), rk.interpolate(b, a, 0.75)
    for name, tensor in there.named_parameters():
        torch.testing.assert_close(tensor, back.get_parameter(name), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize(("alpha", "count"), [(0, 100), (0.25, 84), (0.75, 53), (1, 37)])
def test_integer_buffers_are_rounded(alpha: float, count: int) -> None:
    between = rk.interpolate(*pair(), alpha)
    tracked = between.features[1].num_batches_tracked
    assert tracked.dtype == torch.int64
    assert tracked.item() == count


def test_running_statistics_are_interpolated_too() -> None:
    a, b = pair(torch.float64)
    between = rk.interpolate(a, b, 0.3)
    for name, tensor in between.named_buffers():
        if tensor.is_floating_point():
            wanted = 0.7 * a.get_buffer(name) + 0.3 * b.get_buffer(name)
            torch.testing.assert_close(tensor, wanted, rtol=1e-14, atol=1e-15)


def test_interpolate_leaves_both_networks_as_they_were() -> None:
    a, b = pair()
    before = snapshot(a), snapshot(b)
    rk.interpolate(a, b, 0.5)
    assert_same(before[0], snapshot(a))
    assert_same(before[1], snapshot(b))


def test_the_result_shares_no_memory_with_the_networks() -> None:
    a, b = pair()
    for alpha in (0, 1):
        end = rk.interpolate(a, b, alpha)
        held = {t.data_ptr() for model in (a, b) for t in model.state_dict().values()}
        assert not held & {t.data_ptr() for t in end.state_dict().values()}


def test_class_modes_and_what_needs_a_gradient_are_those_of_a() -> None:
    a, b = pair()
    a.train()
    a.features[1].eval()
    a.classifier.weight.requires_grad_(False)
    between = rk.interpolate(a, b, 0.5)
    assert type(between) is type(a)
    before, after = snapshot(a), snapshot(between)
    assert torch.equal(after["modes"], before["modes"])
    assert torch.equal(after["requires_grad"], before["requires_grad"])


def test_tied_parameters_stay_tied() -> None:
    models = []
    for seed in (0, 1):
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        model[1].weight = model[0].weight
        models.append(lively(model, seed))
    between = rk.interpolate(*models, 0.5)
    assert between[1].weight is between[0].weight
    wanted = (models[0][0].weight + models[1][0].weight) / 2
    torch.testing.assert_close(between[0].weight, wanted, rtol=1e-6, atol=1e-7)


# Weight sets


SHUFFLED = ("vgg_batch_norm", "resnet_option_a", "imagenet_bottleneck")


@functools.cache
def shuffle(family: str) -> tuple[dict[str, rk.PermutationGroup], dict[str, rk.Permutation]]:
    """Return the groups of a family and a permutation of each."""
    groups = rk.trace(FAMILIES[family].network(0), FAMILIES[family].inputs(2)).groups
    generator = torch.Generator().manual_seed(1)
    return groups, {name: rk.Permutation.random(g.size, generator) for name, g in groups.items()}


@pytest.mark.parametrize("family", SHUFFLED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_permuting_on_the_way_gives_the_bits_of_permuting_before(
    family: str, dtype: torch.dtype
) -> None:
    groups, permutations = shuffle(family)
    a, b = (state_of(FAMILIES[family].network(seed).to(dtype)) for seed in (0, 1))
    fused = interpolate_state(a, b, 0.3, groups=groups, permutations=permutations)
    apart = interpolate_state(a, permute_state(b, groups, permutations), 0.3)
    assert fused.keys() == apart.keys() == a.keys()
    assert list(fused) == list(a)
    for name in a:
        assert torch.equal(fused[name], apart[name]), name
        assert fused[name].dtype == a[name].dtype


def test_several_alphas_are_each_alone() -> None:
    groups, permutations = shuffle("vgg_batch_norm")
    a, b = map(state_of, pair())
    options = {"groups": groups, "permutations": permutations}
    alphas = (0, 0.25, 0.5, 1)
    for alpha, state in zip(alphas, interpolate_states(a, b, alphas, **options), strict=True):
        alone = interpolate_state(a, b, alpha, **options)
        assert all(torch.equal(state[name], alone[name]) for name in a)


def test_weight_sets_share_no_memory() -> None:
    a, b = map(state_of, pair())
    states = interpolate_states(a, b, [0, 0.5, 1])
    memory = [t.untyped_storage().data_ptr() for s in (a, b, *states) for t in s.values()]
    assert len(set(memory)) == len(memory)


def test_a_whole_weight_set_is_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    op = ops.lerp_rescale
    monkeypatch.setattr(ops, "lerp_rescale", lambda *a, **k: calls.append(a) or op(*a, **k))
    groups, permutations = shuffle("vgg_batch_norm")
    a, b = map(state_of, pair())
    interpolate_states(a, b, [0.1, 0.9], groups=groups, permutations=permutations)
    [(items, _)] = calls
    assert len(items) == sum(tensor.is_floating_point() for tensor in a.values())
    # The five tensors of a convolution and its norm share one index.
    indices = [item.index_out for item in items if item.index_out is not None]
    assert len({id(index) for index in indices}) <= len(indices) // 5


@settings(max_examples=30)
@given(st.integers(1, 6), st.integers(1, 5), st.randoms(use_true_random=False))
def test_an_index_is_read_in_its_longest_blocks(blocks: int, size: int, random: Random) -> None:
    order = list(range(blocks))
    random.shuffle(order)
    index = torch.tensor([block * size + place for block in order for place in range(size)])
    segment, found = _in_segments(index)
    assert segment % size == 0
    assert torch.equal((found[:, None] * segment + torch.arange(segment)).flatten(), index)


def test_an_axis_beyond_the_second_is_permuted_first() -> None:
    positions = torch.arange(3)[:, None]
    slices = tuple(AxisSlice("w", axis, positions) for axis in (0, 2))
    groups = {"g": rk.PermutationGroup("g", 3, slices, {}, "tap")}
    permutations = {"g": rk.Permutation([2, 0, 1])}
    a, b = ({"w": torch.randn(3, 2, 3)} for _ in "ab")
    fused = interpolate_state(a, b, 0.3, groups=groups, permutations=permutations)
    apart = interpolate_state(a, permute_state(b, groups, permutations), 0.3)
    assert torch.equal(fused["w"], apart["w"])


def test_moved_integers_follow() -> None:
    groups = {
        "g": rk.PermutationGroup("g", 3, (AxisSlice("n", 0, torch.arange(3)[:, None]),), {}, "tap")
    }
    a, b = {"n": torch.tensor([1, 2, 3])}, {"n": torch.tensor([5, 7, 9])}
    permutations = {"g": rk.Permutation([2, 0, 1])}
    found = interpolate_state(a, b, 1, groups=groups, permutations=permutations)
    assert found["n"].tolist() == [9, 5, 7]


def test_complex_weights_are_refused() -> None:
    state = {"w": torch.ones(2, dtype=torch.complex64)}
    with pytest.raises(ArgumentError, match="must be a dense tensor of float32.*complex64"):
        interpolate_state(state, state, 0.5)


# Bad input


@pytest.mark.usefixtures("unchecked_annotations")
@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan"), float("inf"), True, "0.5", None])
def test_alpha_must_be_a_number_between_0_and_1(alpha: object) -> None:
    with pytest.raises(
        ArgumentError, match=rf"`alpha` must be a number in \[0, 1\].*got {alpha!r}"
    ):
        rk.interpolate(*pair(), alpha)


def test_a_missing_parameter_is_named() -> None:
    with pytest.raises(ArchitectureMismatchError, match="only in a: 0.bias"):
        rk.interpolate(
            nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2, bias=False)), 0.5
        )


def test_a_parameter_of_another_shape_is_named() -> None:
    with pytest.raises(ArchitectureMismatchError, match=r"'weight' is \(3, 2\).*\(4, 2\)"):
        rk.interpolate(nn.Linear(2, 3), nn.Linear(2, 4), 0.5)


def test_networks_of_two_dtypes_are_refused() -> None:
    a, b = nn.Linear(2, 2).half(), nn.Linear(2, 2)
    with pytest.raises(
        ArchitectureMismatchError, match="'weight' is torch.float16 .* torch.float32"
    ):
        rk.interpolate(a, b, 0.5)


def test_an_unknown_backend_is_named() -> None:
    with pytest.raises(ArgumentError, match="`backend` must be None.*got 'cuda'"):
        rk.interpolate(nn.Linear(2, 2), nn.Linear(2, 2), 0.5, backend="cuda")
