"""One network captured as a graph: the structure that both endpoints share.

`trace` captures with `torch.export` (ATen operators, dynamic batch). The graph names its *taps*,
the activations that can be read or corrected, and derives the permutation groups. It holds no
weights: a *state* (parameters and buffers by name) is handed in wherever the graph is run, so that
one graph serves any number of weight sets.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from repair_kernels.errors import ArchitectureMismatchError, ArgumentError, GraphCaptureError
from repair_kernels.rules import IDENTITIES, packet, shape
from repair_kernels.schedule import last_uses, overwritten_placeholders
from repair_kernels.symmetry import PermutationGroup, Symmetry, find_symmetry, track
from repair_kernels.taps import Tap, describe_taps, module_outputs, tap_sites

aten = torch.ops.aten
State = dict[str, Tensor]
"""All parameters and buffers of a network by name, non-persistent buffers included."""


def check_module(model: object) -> None:
    """Check that a model is one.

    Raises:
        ArgumentError: when it is something else, such as a state dict.
    """
    if not isinstance(model, nn.Module):
        raise ArgumentError(
            f"a model must be a torch.nn.Module; got {type(model).__name__}; load the checkpoint "
            "into a network first"
        )


def state_of(model: nn.Module) -> State:
    """Return every parameter and buffer of a model by name, detached but not copied."""
    check_module(model)
    named = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    return {name: tensor.detach() for name, tensor in named}


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode and restore every module's own mode, whatever happens."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


class NetworkGraph:
    """The captured graph of a network.

    Attributes:
        module: the graph itself, a `torch.fx.GraphModule` whose placeholders are parameters,
            buffers and the input
        sources: for each placeholder that is a parameter or buffer, its name in the model
        constants: tensors that the model's code created, by placeholder
        aliases: for the first name of each parameter and buffer all names that it has
        taps: names of all taps, in graph order
        groups: permutation groups by name, in graph order
    """

    def __init__(
        self,
        module: GraphModule,
        sources: dict[str, str],
        constants: State,
        aliases: Mapping[str, list[str]],
    ):
        self.module = module
        self.sources = sources
        self.constants = constants
        self.aliases = aliases
        self.nodes: list[Node] = list(module.graph.nodes)
        self.input = next(
            n.name
            for n in self.nodes
            if n.op == "placeholder" and n.name not in {*sources, *constants}
        )
        parameters = {
            n: sources[n.name] for n in self.nodes if n.op == "placeholder" and n.name in sources
        }
        tracker = track(self.nodes, parameters)
        sites = tap_sites(self.nodes, tracker)
        self.symmetry: Symmetry = find_symmetry(tracker, sites, aliases)
        self._module_outputs = module_outputs(self.nodes)
        self._taps = {
            tap.name: tap
            for tap in describe_taps(sites, self.symmetry, self.nodes, self._module_outputs)
        }

    @property
    def taps(self) -> tuple[str, ...]:
        """Names of all taps, in graph order."""
        return tuple(self._taps)

    @property
    def groups(self) -> dict[str, PermutationGroup]:
        """Permutation groups by name, in graph order."""
        return self.symmetry.groups

    @cached_property
    def calibration_taps(self) -> tuple[str, ...]:
        """Return what REPAIR corrects by default: layers and residual blocks but the output."""
        outputs = {node.name for node in self.nodes[-1].all_input_nodes}
        return tuple(
            t.name
            for t in self._taps.values()
            if t.kind in ("layer", "block") and t.node not in outputs
        )

    @cached_property
    def default_taps(self) -> tuple[str, ...]:
        """Return the outputs of layers and residual blocks, and the taps that matching reads."""
        chosen = {tap.name for tap in self._taps.values() if tap.kind in ("layer", "block")}
        return tuple(name for name in self._taps if name in chosen | set(self.match_taps))

    @cached_property
    def match_taps(self) -> tuple[str, ...]:
        """Return the taps that matching reads, one per group at most, in graph order."""
        chosen = {group.match_tap for group in self.groups.values()}
        return tuple(name for name in self._taps if name in chosen)

    def tap(self, name: str) -> Tap:
        """Return a tap by its name, or by the path of the module whose output it is.

        Raises:
            ArgumentError: when there is no such tap.
        """
        if name in self._taps:
            return self._taps[name]
        by_module = self.tap_of_node.get(self._module_outputs.get(name, ""))
        if by_module is None:
            near = [known for known in self._taps if known.startswith(name.split(".")[0])] or list(
                self._taps
            )
            raise ArgumentError(
                f"`taps` must name activations of the network; {name!r} is none of them; "
                f"choose from `trace(model, example).taps`, such as {', '.join(near[:6])}"
            )
        return by_module

    def resolve(
        self, names: Iterable[str] | str | None, default: tuple[str, ...]
    ) -> tuple[str, ...]:
        """Return the names of taps in graph order; None stands for `default`, "all" for all."""
        if names is None:
            return default
        if isinstance(names, str):
            return self.taps if names == "all" else (self.tap(names).name,)
        chosen = {self.tap(name).name for name in names}
        return tuple(name for name in self._taps if name in chosen)

    @cached_property
    def tap_of_node(self) -> dict[str, Tap]:
        """Taps by the name of their node."""
        return {tap.node: tap for tap in self._taps.values()}

    @cached_property
    def schedule(self) -> list[tuple[Node, list[Node]]]:
        """Return the nodes that compute something, each with the values not read after it."""
        return last_uses(self.nodes)

    @cached_property
    def overwritten(self) -> set[str]:
        """Return the names of inputs and weights whose memory some operator writes to."""
        return overwritten_placeholders(self.nodes)

    def __deepcopy__(self, memo: dict) -> "NetworkGraph":
        return self

    def owned(self, value: object) -> str | None:
        """Return the parameter or buffer that a value is, if exactly one operator reads it."""
        if not isinstance(value, Node) or value.name not in self.sources:
            return None
        name = self.sources[value.name]
        uses = sum(
            len(n.users)
            for n in self.nodes
            if n.op == "placeholder" and self.sources.get(n.name) == name
        )
        return name if uses == 1 else None

    def users(self, node: Node) -> list[Node]:
        """Return a value's consumers, seen through operators that only hand values on."""
        found = []
        for user in node.users:
            found += self.users(user) if packet(user) in IDENTITIES else [user]
        return found

    def report(self) -> str:
        """Return a table of the permutation groups and of what pinned the axes that cannot move."""
        lines = [f"{'group':40} {'size':>6}  matched at"]
        lines += [f"{g.name:40} {g.size:6d}  {g.match_tap}" for g in self.groups.values()]
        lines += ["", "axes that cannot move, wholly or in part:"]
        lines += [f"  {axis:50} {why}" for axis, why in self.symmetry.pins.items()] or ["  none"]
        return "\n".join(lines)


def trace(model: nn.Module, example_input: Tensor) -> NetworkGraph:
    """Capture a model's evaluation graph and derive its taps and permutation groups.

    Args:
        model: any module with one tensor as input; left as it is
        example_input: a batch of inputs, on the model's device; its values do not matter
    Returns:
        the graph; `graph.taps` names its activations, `graph.groups` its permutation groups
    Raises:
        GraphCaptureError: when `torch.export` cannot capture the model; the cause is named
        ArgumentError: when `model` is no module
    Example:
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> graph = trace(model, torch.zeros(2, 3))
        >>> graph.taps, graph.groups["0"].size
        (('0', '1', '2'), 4)
    """
    check_module(model)
    if not isinstance(example_input, Tensor) or example_input.dim() == 0:
        raise GraphCaptureError(
            "`example_input` must be a tensor with a batch dimension; got "
            f"{type(example_input).__name__}; pass one batch"
        )
    example = example_input.detach()[:1]
    # A batch of one would be taken for a constant of the network.
    example = (
        example.expand(2, *example.shape[1:]).contiguous()
        if len(example)
        else example.new_zeros(2, *example.shape[1:])
    )
    try:
        with evaluating(model), torch.no_grad():
            program = torch.export.export(
                model, (example,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), strict=False
            )
    except Exception as error:
        cause = str(error).strip().splitlines()
        raise GraphCaptureError(
            f"`torch.export` could not capture {type(model).__name__} with a dynamic batch: "
            f"{type(error).__name__}: {cause[0] if cause else 'no message'}; "
            "the forward must take one tensor and must not branch on values or fix the batch size"
        ) from error
    _drop_assertions(program.graph_module)
    signature = program.graph_signature
    sources = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    constants: dict[str, Any] = {
        node: program.constants[name]
        for node, name in signature.inputs_to_lifted_tensor_constants.items()
    }
    aliases = _aliases(model)
    canonical = {name: names[0] for names in aliases.values() for name in names}
    sources = {node: canonical[name] for node, name in sources.items()}
    return NetworkGraph(program.graph_module, sources, constants, aliases)


def _drop_assertions(module: GraphModule) -> None:
    """Remove the check of the traced dtype that export puts before a cast: weights may be wider."""
    for node in list(module.graph.nodes):
        if packet(node) is aten._assert_tensor_metadata:
            module.graph.erase_node(node)


def check_same_architecture(graph_a: NetworkGraph, graph_b: NetworkGraph) -> None:
    """Check that two networks are the same graph.

    Raises:
        ArchitectureMismatchError: naming the first node at which they differ.
    """
    for a, b in zip(graph_a.nodes, graph_b.nodes, strict=False):
        described = [_describe_node(a), _describe_node(b)]
        if described[0] != described[1]:
            raise ArchitectureMismatchError(
                f"the two networks must be of one architecture; at {a.name!r} network a has "
                f"{described[0]} "
                f"and network b has {described[1]}; merge networks that were built by the same code"
            )
    if len(graph_a.nodes) != len(graph_b.nodes):
        raise ArchitectureMismatchError(
            f"the two networks must be of one architecture; network a has {len(graph_a.nodes)} "
            "operators "
            f"and network b {len(graph_b.nodes)}; merge networks that were built by the same code"
        )


def _describe_node(node: Node) -> str:
    if node.op == "placeholder":
        sizes = ("batch" if isinstance(s, torch.SymInt) else str(s) for s in shape(node))
        return f"{node.name} of shape ({', '.join(sizes)})"
    return f"{node.target}{node.args}{node.kwargs or ''}"


def _aliases(model: nn.Module) -> dict[str, list[str]]:
    """Return for the first name of each tensor all names under which the model holds it."""
    names: dict[int, list[str]] = {}
    for name, tensor in [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]:
        names.setdefault(id(tensor), []).append(name)
    return {held[0]: held for held in names.values()}
