"""What cannot be captured is refused with the model's own line, the reason, and what to try."""

import logging

import pytest
import torch
from torch import Tensor, nn

from models.resnet import CifarResNet
from repair_kernels.errors import GraphCaptureError
from repair_kernels.graph.network import trace
from tests.equivariance import Calls
from tests.networks import FAMILIES

ROWS = (2, 3)


def refusing(model: nn.Module, match: str, shape: tuple[int, ...] = ROWS) -> None:
    with pytest.raises(GraphCaptureError, match=match):
        trace(model, torch.ones(shape))


class TwoInputs(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class Answer:
    """A value of a type that torch does not know."""

    def __init__(self, value: Tensor) -> None:
        self.value = value


def branches(_: nn.Module, x: Tensor) -> Tensor:
    return x if x.sum() > 0 else -x


def picks(_: nn.Module, x: Tensor) -> Tensor:
    return x[x[:, 0] > 0]


def fixes_the_batch(_: nn.Module, x: Tensor) -> Tensor:
    return x.view(2, -1) + torch.ones(2, 1)


def loops(_: nn.Module, x: Tensor) -> Tensor:
    return torch.stack([row * 2 for row in x])


def complains(_: nn.Module, x: Tensor) -> Tensor:
    raise RuntimeError(f"this network dislikes {x.dim()} dimensions\nand says so at length")


def takes_a_dict(_: nn.Module, x: dict[str, Tensor]) -> Tensor:
    return x["image"]


def uses_numpy(network: nn.Module, x: Tensor) -> Tensor:
    return network.fc(x) * torch.from_numpy(x.new_ones(4).numpy())


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (branches, r"`return x if x.sum\(\) > 0 else -x`: .*must not branch on values.*where"),
        (fixes_the_batch, r"`return x.view\(2, -1\) .*`: it takes the batch size.*flatten\(1\)"),
        (loops, r"`return .*for row in x.*`: it takes the batch size, here 2, for a .*must not .*"),
        (
            complains,
            "`raise .*at length.*`: RuntimeError: this network dislikes 2 dimensions; the",
        ),
        (takes_a_dict, r"`return x\[.image.\]`: IndexError.*must take one tensor"),
    ],
)
def test_the_line_and_the_reason_are_named(run, message):
    refusing(Calls(run), rf"could not capture Calls: at test_capture.py:\d+, {message}")


def test_sizes_that_depend_on_values_are_refused_by_their_operator():
    refusing(Calls(picks), r"must not depend on values; that of 'index' \(aten.index.Tensor\) does")


def test_a_network_of_two_inputs_is_refused_with_what_is_missing():
    refusing(TwoInputs(), "could not capture TwoInputs: .*'y'; the forward must take one tensor")


def test_an_output_of_an_unknown_type_is_refused():
    refusing(Calls(lambda _, x: Answer(x)), "Answer.* must return tensors, or tuples, lists and")


def test_a_lazy_module_is_refused_before_anything_is_run():
    model = nn.Sequential(nn.LazyLinear(4))
    refusing(model, "'0.weight' is still without a shape .*; run one batch through the model first")
    assert isinstance(model[0], nn.LazyLinear)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_scripted_module_is_refused():
    model = nn.Sequential(torch.jit.script(nn.Linear(3, 4)))
    refusing(model, "a scripted module cannot be captured: use the module that was scripted")


@pytest.mark.parametrize("example", [torch.tensor(1.0)])
def test_an_example_without_a_batch_dimension_is_refused(example):
    with pytest.raises(GraphCaptureError, match="must be a tensor with a batch dimension"):
        trace(nn.Linear(3, 4), example)


@pytest.mark.usefixtures("unchecked_annotations")
def test_an_example_that_is_no_tensor_is_refused_by_its_type():
    with pytest.raises(GraphCaptureError, match="got list; pass one batch"):
        trace(nn.Linear(3, 4), [1.0])


@pytest.mark.parametrize("run", [branches, loops])
def test_logging_is_as_before_after_a_failure(run):
    log = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    before = log.level, log.propagate, list(log.handlers), logging.root.manager.disable
    refusing(Calls(run), "could not capture")
    assert before == (log.level, log.propagate, list(log.handlers), logging.root.manager.disable)


def test_code_that_needs_real_tensors_is_captured_from_its_bytecode():
    model = Calls(uses_numpy, fc=nn.Linear(3, 4))
    with pytest.raises(RuntimeError, match="numpy"):
        torch.export.export(model, (torch.ones(ROWS),), strict=False)
    assert trace(model, torch.ones(ROWS)).taps[0] == "fc"


def test_outputs_in_a_structure_are_all_outputs():
    model = Calls(
        lambda self, x: {"out": self.b(h := self.a(x).relu()), "n": 3, "aux": (self.c(h), None)},
        a=nn.Linear(3, 4),
        b=nn.Linear(4, 2),
        c=nn.Linear(4, 5),
    )
    graph = trace(model, torch.ones(ROWS))
    assert list(graph.groups) == ["a"]
    assert graph.verify(model) < 1e-12


@pytest.mark.parametrize("name", ["resnet_option_a", "vgg_batch_norm", "resnet_layer_norm"])
def test_weights_without_values_have_the_same_groups(name):
    family = FAMILIES[name]
    with torch.device("meta"):
        model, example = family.build(), torch.zeros(2, *family.shape)
    bare, real = trace(model, example), trace(family.build(), torch.zeros(2, *family.shape))
    assert bare.taps == real.taps
    assert bare.groups.keys() == real.groups.keys()
    assert all(bare.groups[g].match_tap == real.groups[g].match_tap for g in real.groups)


def test_a_graph_of_weights_without_values_serves_weights_with_values():
    with torch.device("meta"):
        model, example = CifarResNet((1, 1), (4, 8)), torch.zeros(2, 3, 8, 8)
    assert trace(model, example).verify(CifarResNet((1, 1), (4, 8))) < 1e-12
