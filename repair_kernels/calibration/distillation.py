"""Scales and shifts fitted to what the endpoints answer, beyond what statistics can tell.

    min over scale, shift    D(f_alpha; f_A, f_B)        (`answers.py`)

Means and standard deviations leave open which channels matter, and how the errors of one layer meet
those of the next. So, from REPAIR's corrections on, gradient descent moves the same parameters, one
scale and one shift per channel of each corrected tap, until the merged network answers as the
endpoints do on the calibration images. It needs no labels and changes no other weight.

Of several ranks each asks the endpoints about its own images and takes its share of every step;
their gradients are added up, so that all take the same steps.

A tenth of the images is held out. The corrections that answer best on it are returned, those of the
start among them: they are never worse there than where they came from.

Source:
    the parameters of REPAIR (Jordan et al., 2023), §4; fitted by distillation (Hinton et al., 2015)
    with both endpoints as teachers, by Adam (Kingma and Ba, 2015) with one cycle of learning rates
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.lr_scheduler import OneCycleLR

from repair_kernels.affine import ChannelAffine
from repair_kernels.calibration.answers import Answers
from repair_kernels.calibration.goals import Goal
from repair_kernels.errors import ArgumentError
from repair_kernels.graph.execution import as_mapping, execute
from repair_kernels.graph.network import NetworkGraph, State
from repair_kernels.graph.taps import Tap
from repair_kernels.progress import meter
from repair_kernels.ranks import ALONE, Ranks

SEED = 0
HELD_OUT = 0.1
LEAST_HELD_OUT = 20
"""With fewer images than that to hold out, all are fitted to and judged by,"""
FEW = 100
"""and of fewer images than that in all, which are soon learnt by heart, a half is held out."""
MOVES = {"both": (1.0, 1.0), "std": (1.0, 0.0), "mean": (0.0, 1.0)}
"""By `restore`: whether scales move, and shifts."""


@dataclass(frozen=True)
class Recipe:
    """How to descend; docs/repair.md has what other values gave.

    Attributes:
        epochs: passes over the images
        batch_size: images per step
        learning_rate: of Adam, at the top of its cycle: of a scale relative to what it was, of a
            shift relative to the goal's standard deviation
    """

    epochs: int = 10
    batch_size: int = 125
    learning_rate: float = 0.05


class MovingAffines:
    """One scale and shift per channel of each tap, as steps away from where they started.

        scale = start_scale (1 + u)        shift = start_shift + goal_std v

    `u` and `v` have no unit, so that one learning rate fits all layers. Channels that are dead in
    both endpoints do not move.
    """

    def __init__(
        self,
        start: Mapping[str, ChannelAffine],
        goals: Mapping[str, Goal],
        restore: str,
        device: torch.device,
    ):
        self._start: dict[str, tuple[Tensor, Tensor]] = {}
        self._units: dict[str, Tensor] = {}
        self.steps: dict[str, Tensor] = {}
        moves = torch.tensor(MOVES[restore], device=device)
        for tap, layer in start.items():
            scale, shift, std, dead = (
                value.detach().to(device, torch.float32)
                for value in (layer.scale, layer.shift, goals[tap].std, goals[tap].dead)
            )
            self._start[tap] = scale, shift
            self._units[tap] = torch.stack([scale, std]) * (1 - dead) * moves[:, None]
            self.steps[tap] = torch.zeros(2, len(scale), device=device, requires_grad=True)

    def affine(self, tap: str) -> tuple[Tensor, Tensor]:
        """Return the scale and shift of a tap."""
        by_scale, by_shift = self._units[tap] * self.steps[tap]
        scale, shift = self._start[tap]
        return scale + by_scale, shift + by_shift

    def correct(self, tap: Tap, values: list[Tensor]) -> list[Tensor]:
        """Correct the value of a tap; see `execute`."""
        shape = [1] * values[0].dim()
        shape[tap.channel_dim] = -1
        scale, shift = self.affine(tap.name)
        return [torch.addcmul(shift.view(shape), values[0], scale.view(shape))]

    def frozen(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Return every scale and shift as it is now."""
        with torch.no_grad():
            return {tap: self.affine(tap) for tap in self.steps}


def distil(
    graph: NetworkGraph,
    state: State,
    start: Mapping[str, ChannelAffine],
    goals: Mapping[str, Goal],
    answers: Answers,
    *,
    restore: str = "both",
    recipe: Recipe | None = None,
    ranks: Ranks = ALONE,
) -> dict[str, ChannelAffine]:
    """Fit the corrections of an interpolated network to the endpoints' answers.

    Args:
        graph, state: the interpolated network, uncorrected; computed in float32
        start: corrections to start from, by tap
        goals: the goal of each of those taps
        answers: images, and what the endpoints answer
        restore: "both" scales and shifts move, or the scales ("std") or shifts ("mean") alone
        recipe: how to descend; the size of a batch counts the images of all ranks
        ranks: whose images they are
    Returns:
        by tap the correction, float64; on a CPU the same bits for the same images in one order
    Raises:
        ArgumentError: no gradient comes through the network
    """
    recipe = recipe or Recipe()
    if not start:
        return {}
    device = answers.wanted.device
    moving = MovingAffines(start, goals, restore, device)
    placed = {
        name: t.float() if t.is_floating_point() else t
        for name, t in as_mapping(state, device).items()
    }
    generator = torch.Generator().manual_seed(SEED)
    fitted, held_out = _split(len(answers.images), generator, ranks)
    shares = _shares(len(fitted), recipe.batch_size, ranks)

    def loss(index: Tensor) -> Tensor:
        [output] = execute(
            graph, [placed], answers.batch(index), moving.correct, tuple(start), torch.float32
        )
        return answers.disagreement(output, index)

    def held_out_loss() -> float:
        with torch.no_grad():
            pieces = held_out.split(recipe.batch_size) if len(held_out) else ()
            own = sum(float(loss(piece)) * len(piece) for piece in pieces)
        everyone = ranks.exchange("held out", (own, len(held_out)))
        return sum(total for total, _ in everyone) / sum(count for _, count in everyone)

    best, kept = held_out_loss(), moving.frozen()
    steps = recipe.epochs * len(shares)
    optimizer = torch.optim.Adam(moving.steps.values(), lr=recipe.learning_rate)
    schedule = OneCycleLR(optimizer, recipe.learning_rate, total_steps=steps)
    with meter("distillation", recipe.epochs * len(fitted)) as done:
        for _ in range(recipe.epochs):
            order = fitted[torch.randperm(len(fitted), generator=generator)]
            parts = order.split([own for own, _ in shares])
            for index, (own, everyones) in zip(parts, shares, strict=True):
                optimizer.zero_grad()
                if own:
                    _backward(loss, index, own / everyones)
                _add_up_gradients(list(moving.steps.values()), ranks)
                optimizer.step()
                schedule.step()
                done.update(own)
            found = held_out_loss()
            if found < best:
                best, kept = found, moving.frozen()
    return {
        tap: ChannelAffine(scale.double(), shift.double(), start[tap].channel_dim)
        for tap, (scale, shift) in kept.items()
    }


def _backward(loss: Callable[[Tensor], Tensor], index: Tensor, weight: float) -> None:
    with torch.enable_grad():
        value = loss(index) * weight
    if not value.requires_grad:
        raise ArgumentError(
            "variant 'distilled' needs gradients of the network's output, and none come through "
            "this network; use variant='sequential'"
        )
    value.backward()


def _add_up_gradients(steps: Sequence[Tensor], ranks: Ranks) -> None:
    if ranks.size == 1:
        return
    for step in steps:
        step.grad = torch.zeros_like(step) if step.grad is None else step.grad
    ranks.exchange("gradients", None)
    ranks.add_up_([step.grad for step in steps if step.grad is not None])


def _split(n: int, generator: torch.Generator, ranks: Ranks) -> tuple[Tensor, Tensor]:
    """Return which images to fit to, and which to judge by."""
    order = torch.randperm(n, generator=generator)
    few = sum(ranks.exchange("to distil with", n)) < FEW
    count = int((0.5 if few else HELD_OUT) * n)
    enough = sum(ranks.exchange("to hold out", count)) >= (1 if few else LEAST_HELD_OUT)
    return (order[count:], order[:count]) if enough else (order, order)


def _shares(n: int, batch_size: int, ranks: Ranks) -> list[tuple[int, int]]:
    """Return for each step how many images it takes of this rank's n, and how many of all."""
    everyone = ranks.exchange("to fit to", n)
    steps = -(-sum(everyone) // batch_size)
    if ranks.size == 1:
        sizes = [min(batch_size, n - start) for start in range(0, n, batch_size)]
        return [(size, size) for size in sizes]
    cut = [[m * (k + 1) // steps - m * k // steps for m in everyone] for k in range(steps)]
    return [(sizes[ranks.rank], sum(sizes)) for sizes in cut]
