"""Capture a model's evaluation graph with `torch.export`, and say what to do where that fails."""

import logging
import sysconfig
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode, free_unbacked_symbols
from torch.nn.parameter import is_lazy

from repair_kernels.errors import GraphCaptureError
from repair_kernels.graph.state import check_module, evaluating
from repair_kernels.rules import packet

if torch.distributed.is_available():
    # `torch.export` imports this at its first call, and defaults of its functions keep the process
    # group that there is by then: the group's threads, alive when the interpreter ends, may abort
    # it. So import it before there is a group.
    import torch.distributed.nn

aten = torch.ops.aten
OWN_CODE = (str(Path(torch.__file__).parent), str(Path(__file__).parent), "<")
"""Whose lines are not the model's: torch's, this package's, code without a file."""
STANDARD_LIBRARY = sysconfig.get_path("stdlib")
BATCH_IS_FIXED = "specialized it to be a constant"
SHAPES_LOG = logging.getLogger("torch.fx.experimental.symbolic_shapes")


def capture(model: nn.Module, example_input: Tensor) -> ExportedProgram:
    """Capture a model in evaluation mode, for batches of any size; the model is left as it is.

    Values are not needed: the model and the example may be on the meta device. Where the model's
    code cannot be run on stand-ins for tensors (it calls `.numpy()`, say), its bytecode is analysed
    (`strict=True`), which understands some more.

    Raises:
        GraphCaptureError: naming the line of the model's code, the reason, and what to try
        ArgumentError: when `model` is no module
    """
    check_module(model)
    _check_example(example_input)
    _check_initialised(model)
    example = example_input.detach()[:1]
    # A batch of one would be taken for a constant of the network.
    example = (
        example.expand(2, *example.shape[1:]).contiguous()
        if len(example)
        else example.new_zeros(2, *example.shape[1:])
    )
    try:
        program = _export(model, example)
    except Exception as error:
        advice = _advice(model, error)
        try:
            if advice is not None:
                raise
            program = _export(model, example, strict=True)
        except Exception:  # The first error is the plain one: it comes from the model's own line.
            raise GraphCaptureError(_explanation(model, example, error, advice)) from error
    _drop_assertions(program.graph_module)
    _check_sizes(model, program.graph_module)
    return program


def _export(
    model: nn.Module, example: Tensor, strict: bool = False, quiet: bool = True
) -> ExportedProgram:
    with evaluating(model), torch.no_grad(), _quiet() if quiet else nullcontext():
        return torch.export.export(
            model, (example,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), strict=strict
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch from logging at length that it failed: the error says it all."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _check_example(example_input: object) -> None:
    if not isinstance(example_input, Tensor) or example_input.dim() == 0:
        raise GraphCaptureError(
            "`example_input` must be a tensor with a batch dimension; got "
            f"{type(example_input).__name__}; pass one batch"
        )


def _check_initialised(model: nn.Module) -> None:
    named = [*model.named_parameters(), *model.named_buffers()]
    lazy = next((name for name, tensor in named if is_lazy(tensor)), None)
    if lazy is not None:
        raise GraphCaptureError(
            f"the model must have its weights; {lazy!r} is still without a shape (a lazy module); "
            "run one batch through the model first"
        )


def _drop_assertions(module: GraphModule) -> None:
    """Remove the check of the traced dtype that export puts before a cast: weights may be wider."""
    for node in list(module.graph.nodes):
        if packet(node) is aten._assert_tensor_metadata:
            module.graph.erase_node(node)


def _check_sizes(model: nn.Module, module: GraphModule) -> None:
    """Refuse a graph in which the size of a tensor depends on values, not on the batch alone."""
    for node in module.graph.nodes:
        value = node.meta.get("val")
        for tensor in value if isinstance(value, list | tuple) else [value]:
            if isinstance(tensor, Tensor) and free_unbacked_symbols(tensor.shape):
                raise GraphCaptureError(
                    f"the sizes of {type(model).__name__}'s tensors must not depend on values; "
                    f"that of {node.name!r} ({node.target}) does; "
                    "use masks, which keep the size, or trace the part before it"
                )


def _advice(model: nn.Module, error: Exception) -> str | None:
    """Return what to try after an error of a known kind."""
    text = str(error)
    if BATCH_IS_FIXED in text:
        return (
            "the forward must not fix the batch size or loop over the images: write "
            "`x.flatten(1)` or `x.view(x.shape[0], ...)`, and leave -1 to another size"
        )
    if isinstance(error, GuardOnDataDependentSymNode):
        return (
            "the forward must not branch on values: use `torch.where`, or settle the branch when "
            "the model is built"
        )
    if "missing a required argument" in text:
        return (
            "the forward must take one tensor: wrap the model in a module that makes the other "
            "arguments itself"
        )
    if "in output, which is not a known type" in text:
        return (
            "the forward must return tensors, or tuples, lists and dicts of them: wrap the model "
            "in a module that picks the tensors"
        )
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        return "a scripted module cannot be captured: use the module that was scripted"
    return None


def _explanation(model: nn.Module, example: Tensor, error: Exception, advice: str | None) -> str:
    """Say where and why a model could not be captured, and what to try."""
    stack = traceback.extract_tb(error.__traceback__)
    lines = str(error).strip().splitlines()
    cause = f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
    if BATCH_IS_FIXED in str(error):
        stack = _where_batch_is_fixed(model, example)
        cause = f"it takes the batch size, here {len(example)}, for a constant"
    advice = advice or (
        "the forward must take one tensor, such as the example, of any batch size; see first that "
        "`model.eval()(example)` works"
    )
    return (
        f"`torch.export` could not capture {type(model).__name__}: {_place(stack)}{cause}; {advice}"
    )


def _place(stack: Sequence[traceback.FrameSummary]) -> str:
    """Return the innermost line of the model's own code, "at file.py:12, `the_line()`: "."""
    for frame in reversed(stack):
        file = frame.filename
        standard = file.startswith(STANDARD_LIBRARY) and "site-packages" not in file
        if not (standard or file.startswith(OWN_CODE)):
            return f"at {Path(file).name}:{frame.lineno}, `{frame.line}`: "
    return ""


def _where_batch_is_fixed(model: nn.Module, example: Tensor) -> list[traceback.FrameSummary]:
    """Capture again, and return the stack at the moment at which the batch becomes a number."""
    found: list[traceback.FrameSummary] = []
    callers = len(traceback.extract_stack())

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "set_replacement" in record.getMessage() and not found:
                found.extend(traceback.extract_stack()[callers:])

    before = SHAPES_LOG.level, SHAPES_LOG.propagate, SHAPES_LOG.handlers
    SHAPES_LOG.handlers, SHAPES_LOG.propagate = [Listener()], False
    SHAPES_LOG.setLevel(logging.INFO)
    try:
        _export(model, example, quiet=False)
    except Exception:
        return found
    finally:
        SHAPES_LOG.level, SHAPES_LOG.propagate, SHAPES_LOG.handlers = before
    return found
