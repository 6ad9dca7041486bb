"""One network captured as a graph: the structure that both endpoints share.

`trace` captures with `torch.export` (ATen operators, dynamic batch). The graph names its *taps*,
the activations that can be read or corrected, and derives the permutation groups. It holds no
weights: a *state* (parameters and buffers by name) is handed in wherever the graph is run, so that
one graph serves any number of weight sets.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from repair_kernels.errors import ArchitectureMismatchError
from repair_kernels.graph.capture import capture
from repair_kernels.graph.overwriting import overwriting
from repair_kernels.graph.permutation import Permutation, permute_state
from repair_kernels.graph.schedule import last_uses, overwritten_placeholders
from repair_kernels.graph.state import State, check_module, evaluating, state_of
from repair_kernels.graph.symmetry import PermutationGroup, Symmetry, find_symmetry, track
from repair_kernels.graph.symmetry_report import SymmetryReport, report
from repair_kernels.graph.tap_selection import find, select
from repair_kernels.graph.taps import (
    Tap,
    describe_taps,
    module_outputs,
    run_by_one_name,
    same_modules,
    tap_sites,
    with_match_taps,
)
from repair_kernels.graph.verification import example_batch, function_deviation
from repair_kernels.rules import IDENTITIES, packet, shape

__all__ = [
    "NetworkGraph",
    "State",
    "check_module",
    "check_same_architecture",
    "evaluating",
    "state_of",
    "trace",
]


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
        same: Mapping[str, Collection[str]],
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
        alone = run_by_one_name(self._module_outputs, self.nodes, same)
        self._taps = {
            tap.name: tap for tap in describe_taps(sites, self.symmetry, self.nodes, alone)
        }
        self.symmetry = with_match_taps(self.symmetry, self._taps)

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
        return self.resolve(("conv", "block"), ())

    @cached_property
    def default_taps(self) -> tuple[str, ...]:
        """Return the outputs of layers and residual blocks, and the taps that matching reads."""
        chosen = {tap.name for tap in self._taps.values() if tap.kind in ("layer", "block")}
        return tuple(name for name in self._taps if name in chosen | set(self.match_taps))

    @cached_property
    def match_taps(self) -> tuple[str, ...]:
        """Return the taps that matching needs, one per group at most, in graph order."""
        chosen = {group.match_tap for group in self.groups.values()}
        return tuple(name for name in self._taps if name in chosen)

    @cached_property
    def all_match_taps(self) -> tuple[str, ...]:
        """Return the taps that matching makes use of where they are at hand, in graph order."""
        chosen = {tap for group in self.groups.values() for tap in group.match_taps}
        return tuple(name for name in self._taps if name in chosen)

    def tap(self, name: str) -> Tap:
        """Return a tap by its name, or by the path of the module whose output it is.

        Raises:
            ArgumentError: when there is no such tap.
        """
        return find(name, self._taps, self._tap_of_module)

    def resolve(
        self, names: Iterable[str] | str | None, default: tuple[str, ...]
    ) -> tuple[str, ...]:
        """Return the names of taps in graph order; None stands for `default`.

        Args:
            names: names, patterns and kinds, one or several; see `tap_selection`
        Raises:
            ArgumentError: when one of them means no tap
        """
        if names is None:
            return default
        words = (names,) if isinstance(names, str) else names
        chosen = select(words, self._taps, self._tap_of_module, self._output_nodes)
        return tuple(name for name in self._taps if name in chosen)

    @cached_property
    def _tap_of_module(self) -> dict[str, Tap]:
        """Taps by the path of the module whose output they are."""
        of_node = self.tap_of_node
        return {path: of_node[n] for path, n in self._module_outputs.items() if n in of_node}

    @cached_property
    def _output_nodes(self) -> set[str]:
        """Names of the nodes that the network returns."""
        return {node.name for node in self.nodes[-1].all_input_nodes}

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

    @cached_property
    def overwriting(self) -> dict[str, Callable[..., Tensor]]:
        """Return by node an operator of the same bits that writes over what nothing else reads."""
        return overwriting(self.nodes)

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

    def verify(
        self,
        model: nn.Module,
        batch: Tensor | None = None,
        *,
        permutations: Mapping[str, Permutation] | None = None,
        seed: int = 0,
    ) -> float:
        """Run a network beside a permuted copy of itself in float64 and return their deviation.

            deviation = max |y - y'| / max |y|        over everything that the network returns

        Every tap is compared, too. What counts as rounding is found out on the way; see
        `verification.py`.

        Args:
            model: the network, or another of its architecture; left as it is
            batch: inputs; default: two of standard normal numbers, of the traced shape
            permutations: by group; default: a random one for every group, drawn from `seed`
        Raises:
            FunctionChangedError: when the deviation is more than rounding; it has the deviation
                and the name of the first tap that differs
            ArgumentError: when the weights hold no values, or only a user can make inputs
        Example:
            >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
            >>> trace(model, torch.zeros(2, 3)).verify(model) < 1e-12
            True
        """
        state = state_of(model)
        if permutations is None:
            generator = torch.Generator().manual_seed(seed)
            permutations = {
                name: Permutation.random(group.size, generator)
                for name, group in self.groups.items()
            }
        if batch is None:
            batch = example_batch(self, state, seed)
        permuted = permute_state(state, self.groups, permutations)
        return function_deviation(self, state, permuted, permutations, batch)

    def report(self) -> SymmetryReport:
        """Return what can move, what pinned the rest and why; `print` it for a table."""
        return report(self.nodes, self.sources, self.symmetry)


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
    program = capture(model, example_input)
    signature = program.graph_signature
    sources = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    constants: dict[str, Any] = {
        node: program.constants[name]
        for node, name in signature.inputs_to_lifted_tensor_constants.items()
    }
    aliases = _aliases(model)
    canonical = {name: names[0] for names in aliases.values() for name in names}
    sources = {node: canonical[name] for node, name in sources.items()}
    same = same_modules(model)
    return NetworkGraph(program.graph_module, sources, constants, aliases, same)


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
