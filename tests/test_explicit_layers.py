"""Corrections that no weight can hold: layers with a name, in copies and files."""

import copy
import io

import pytest
import torch
from torch import Tensor, nn

import repair_kernels as rk
from repair_kernels import ChannelAffine
from repair_kernels.calibration.explicit import GraphNetwork
from repair_kernels.errors import ArchitectureMismatchError, ArgumentError
from repair_kernels.graph.network import state_of
from tests.folds import DOUBLE, affine, assert_equal_functions, explicitly, folded
from tests.networks import FAMILIES, assert_same, lively, snapshot

pytestmark = pytest.mark.usefixtures("torch_backend")


def block_outputs() -> tuple[nn.Module, nn.Module, Tensor, ChannelAffine]:
    """Return a ResNet, the same with an explicit correction at its first block, and inputs."""
    family = FAMILIES["resnet_option_a"]
    model, x = family.network(0).double(), family.inputs(4).double()
    layer = affine(4)
    result, explicit = folded(model, x, {"layer1.0": layer})
    assert len(explicit) == 1
    return model, result, x, layer


def test_an_explicit_correction_is_a_named_layer_of_its_module() -> None:
    model, result, x, layer = block_outputs()
    assert type(result) is type(model)
    attached = result.get_submodule("layer1.0.channel_affine")
    assert isinstance(attached, ChannelAffine)
    assert torch.equal(attached.scale, layer.scale)
    assert_equal_functions(result, explicitly(model, "layer1.0", layer), x, DOUBLE)


def test_explicit_layers_have_the_dtype_of_the_network() -> None:
    family = FAMILIES["resnet_option_a"]
    result, _ = folded(family.network(0), family.inputs(2), {"layer1.0": affine(4)})
    assert {t.dtype for t in result.parameters()} == {torch.float32}


def test_copies_of_a_network_with_explicit_layers_compute_the_same() -> None:
    _, result, x, _ = block_outputs()
    twin = copy.deepcopy(result)
    assert_equal_functions(twin, result, x, 0)
    twin.get_submodule("layer1.0.channel_affine").scale.zero_()
    assert not torch.equal(twin(x), result(x))


def test_state_dicts_carry_explicit_layers_through_a_file() -> None:
    _, result, x, _ = block_outputs()
    file = io.BytesIO()
    torch.save(result.state_dict(), file)
    file.seek(0)
    other = FAMILIES["resnet_option_a"].network(7).double()
    fresh, _ = folded(other, x, {"layer1.0": affine(4, seed=9)})
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert_equal_functions(fresh, result, x, 0)


def test_a_network_with_explicit_layers_can_be_corrected_again() -> None:
    _, result, x, _ = block_outputs()
    again = affine(4, seed=9)
    wanted = explicitly(result, "layer1.0", again)
    twice, _ = folded(result, x, {"layer1.0": again})
    assert_equal_functions(twice, wanted, x, DOUBLE)


def inner() -> tuple[nn.Module, GraphNetwork, Tensor]:
    """Return a ResNet and the same with corrections inside a block's forward and at its output."""
    family = FAMILIES["resnet_option_a"]
    model, x = family.network(0), family.inputs(4)
    result, explicit = folded(model, x, {"layer1.0.add": affine(4), "layer1.0": affine(4, seed=5)})
    assert len(explicit) == 2
    assert isinstance(result, GraphNetwork)
    return model, result, x


def test_a_graph_network_keeps_the_names_and_values_of_the_weights() -> None:
    model, result, _ = inner()
    held = result.state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(held[name], tensor), name
    assert sum(name.startswith("channel_affines.") for name in held) == 2 * 3


def test_a_graph_network_takes_any_batch_size_and_leaves_its_input() -> None:
    _, result, x = inner()
    whole, before = result(x), x.clone()
    torch.testing.assert_close(result(x[:1]), whole[:1], rtol=1e-5, atol=1e-5)
    assert torch.equal(x, before)


def test_a_graph_network_can_be_copied_saved_and_cast() -> None:
    _, result, x = inner()
    twin = copy.deepcopy(result)
    assert_equal_functions(twin, result, x, 0)
    with torch.no_grad():
        for tensor in twin.parameters():
            tensor.zero_()
    twin.load_state_dict(result.state_dict())
    assert_equal_functions(twin, result, x, 0)
    assert result.double()(x.double()).dtype == torch.float64


# From a checkpoint


def test_a_merged_checkpoint_loads_into_a_fresh_network(tmp_path) -> None:
    model, result, x, _ = block_outputs()
    rk.save_state_dict(result.state_dict(), tmp_path / "merged.safetensors")
    fresh = FAMILIES["resnet_option_a"].network(5).double()
    before = snapshot(fresh)
    loaded = rk.load_merged(fresh, rk.load_state_dict(tmp_path / "merged.safetensors"))
    assert torch.equal(loaded(x), result(x))
    assert_same(snapshot(fresh), before)


def test_a_merged_checkpoint_with_inner_corrections_needs_an_example(tmp_path) -> None:
    model, result, x = inner()
    rk.save_state_dict(result.state_dict(), tmp_path / "merged.safetensors")
    state = rk.load_state_dict(tmp_path / "merged.safetensors")
    loaded = rk.load_merged(model, state, example_input=x)
    assert isinstance(loaded, GraphNetwork)
    assert torch.equal(loaded(x), result(x))
    with pytest.raises(ArgumentError, match="`example_input` is needed"):
        rk.load_merged(model, state)


def test_a_merged_checkpoint_of_another_architecture_is_refused() -> None:
    _, result, _, _ = block_outputs()
    with pytest.raises(ArchitectureMismatchError, match="the merged network"):
        rk.load_merged(nn.Linear(2, 2), result.state_dict())


def test_a_correction_without_its_shift_is_refused() -> None:
    model, result, _, _ = block_outputs()
    state = result.state_dict()
    del state["layer1.0.channel_affine.shift"]
    with pytest.raises(ArchitectureMismatchError, match="must have `scale`, `shift` and `dim`"):
        rk.load_merged(model, state)


def test_a_correction_at_a_module_that_is_missing_is_refused() -> None:
    layer = affine(4)
    state = {**nn.Linear(2, 2).state_dict()}
    state |= {f"block.channel_affine.{name}": t for name, t in layer.state_dict().items()}
    with pytest.raises(ArchitectureMismatchError, match="a correction at 'block'"):
        rk.load_merged(nn.Linear(2, 2), state)


def test_a_module_that_stands_at_two_places_is_corrected_at_one_of_them() -> None:
    """A hook of the one object would act at both."""
    act = nn.ReLU()
    padded = (nn.Conv2d(4, 4, 3, padding=1), act, nn.Conv2d(4, 2, 3, padding=1))
    model = lively(nn.Sequential(nn.Conv2d(3, 4, 3), act, *padded), 0).double()
    x, layer = torch.randn(3, 3, 8, 8, dtype=torch.float64), affine(4)
    graph = rk.trace(model, x)
    assert [graph.tap(tap).module for tap in graph.taps] == ["0", None, "2", None, "4"]
    result, explicit = folded(model, x, {"1": layer})
    assert list(explicit) == ["1"]
    wanted = GraphNetwork(graph, state_of(model), {"1": layer})
    assert_equal_functions(result, wanted, x, DOUBLE)
    y = model[0](x).relu()
    with torch.no_grad():
        y = y * layer.scale.view(-1, 1, 1) + layer.shift.view(-1, 1, 1)
        torch.testing.assert_close(result(x), model[2:](y), rtol=0, atol=1e-9)
