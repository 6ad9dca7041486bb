"""The statistics of both networks on one batch as one compiled function.

The compiler drops what no tap needs and fuses normalisations and activation functions around the
statistics. One layout of batches is compiled, since shapes are static; a ragged last batch is for
the caller to run node by node. On a GPU the whole is recorded in a CUDA graph, except with plain
PyTorch statistics: they wait for the device, which a recording cannot.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from repair_kernels.errors import CompilationError
from repair_kernels.graph.network import NetworkGraph, State
from repair_kernels.graph.twin import Twin
from repair_kernels.library import paired_sums
from repair_kernels.ops import PairedSums


class CompiledPair:
    """The statistics of two weight sets of one graph, for batches of one layout.

    Args:
        graph: the network
        like: a batch; those that are to be taken have its shape, strides, dtype and device
        taps: by the names of taps, which products are summed there: "none", "diagonal", "cross",
            "joint"
        precision, backend: as in `ops.paired_moments`
        compiler: a backend of `torch.compile`
    Example:
        >>> from repair_kernels.graph.network import state_of, trace
        >>> model, batch = torch.nn.Sequential(torch.nn.Linear(3, 4)), torch.rand(8, 3)
        >>> pair = CompiledPair(trace(model, batch), batch, {"0": "cross"}, compiler="eager")
        >>> n_samples, sums = pair(pair.inputs([state_of(model)] * 2), batch)["0"]
        >>> n_samples, sums.cross.shape
        (8, torch.Size([4, 4]))
    """

    def __init__(
        self,
        graph: NetworkGraph,
        like: Tensor,
        taps: Mapping[str, str],
        *,
        precision: str = "tf32x3",
        backend: str | None = None,
        compiler: str | Callable = "inductor",
    ):
        self.taps = dict(taps)
        self.graph = graph
        self.twin = Twin(graph, like.device, self.taps, precision=precision, backend=backend)
        self.is_recorded = like.device.type == "cuda" and backend != "torch"
        self._layout = _layout(like)
        settings: dict[str, str | int | bool | Callable] = {
            "triton.cudagraphs": self.is_recorded,
            # Round 16-bit values wherever the networks do, also within fused operators.
            "emulate_precision_casts": self.twin.is_half,
        }
        self._run = torch.compile(
            self.twin.module.forward,  # not the module: its call hides errors from dynamo
            fullgraph=True,
            dynamic=False,
            backend=compiler,
            options=settings if compiler == "inductor" else None,
        )

    def takes(self, batch: Tensor) -> bool:
        """Tell whether a batch has the layout that is compiled."""
        return _layout(batch) == self._layout

    def inputs(self, states: Sequence[State]) -> list[Tensor]:
        """Gather once what every call needs of two weight sets, which must be on the device."""
        inputs = [tensor.detach() for tensor in self.twin.inputs(states)]
        for tensor in inputs:
            # A CUDA graph reads them where they are, and is recorded anew for others.
            torch._dynamo.mark_static_address(tensor, guard=False)
        return inputs

    def __call__(
        self, inputs: Sequence[Tensor], batch: Tensor
    ) -> dict[str, tuple[int, PairedSums]]:
        """Return by tap the number of positions and the sums of one batch.

        The sums hold until the next call, which overwrites them where a CUDA graph is replayed.

        Raises:
            CompilationError: when `torch.compile` cannot compile the networks on this machine.
        """
        from torch._dynamo.exc import TorchDynamoException  # slow to import

        if self.is_recorded:
            torch.compiler.cudagraph_mark_step_begin()
        try:
            with torch.no_grad():
                results = self._run(batch, *inputs)
        except TorchDynamoException as error:
            raise CompilationError(_explanation(error)) from error
        return {
            name: (numel // self.graph.tap(name).channels, paired_sums(sums, self.taps[name]))
            for name, (numel, sums) in zip(self.taps, results, strict=True)
        }


def _layout(batch: Tensor) -> tuple:
    return tuple(batch.shape), batch.stride(), batch.dtype, batch.device


def _explanation(error: Exception) -> str:
    """Say what is needed, what failed, and what to do."""
    inner = getattr(error, "inner_exception", error)  # what a backend of the compiler raised
    cause = next((line.strip() for line in str(inner).splitlines() if line.strip()), "no message")
    remedy = "leave it out"
    if type(inner).__name__ == "InvalidCxxCompiler":
        remedy = f"install a C++ compiler such as g++, name one in the variable CXX, or {remedy}"
    return (
        "`compile=True` needs networks and a machine that `torch.compile` can work with; here it "
        f"failed with {type(inner).__name__}: {cause}; {remedy}"
    )
