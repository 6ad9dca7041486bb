"""Scales and shifts fitted to what the endpoints answer, beyond what statistics can tell.

    min over scale, shift    D(f_alpha; f_A, f_B)        (`answers.py`)

Means and standard deviations leave open which channels matter, and how the errors of one layer meet
those of the next. So, from REPAIR's corrections on, gradient descent moves the same parameters, one
scale and one shift per channel of each corrected tap, until the merged network answers as the
endpoints do on the calibration images. It needs no labels and changes no other weight.

Of several ranks each asks the endpoints about its own images. Steps take their images from all of
them as if one process had them all, and the ranks' gradients are added up.

A tenth of the images is held out. The corrections that answer best on it are returned, those of the
start among them: they are never worse there than where they came from.

Source:
    the parameters of REPAIR (Jordan et al., 2023), §4; fitted by distillation (Hinton et al., 2015)
    with both endpoints as teachers, by Adam (Kingma and Ba, 2015) with one cycle of learning rates
"""

import math
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

    Args:
        start, goals, restore: see `distil`
        like: a tensor of their dtype, where they shall be
    """

    def __init__(
        self,
        start: Mapping[str, ChannelAffine],
        goals: Mapping[str, Goal],
        restore: str,
        like: Tensor,
    ):
        self._start: dict[str, tuple[Tensor, Tensor]] = {}
        self._units: dict[str, Tensor] = {}
        self.steps: dict[str, Tensor] = {}
        device, dtype = like.device, like.dtype
        moves = torch.tensor(MOVES[restore], device=device, dtype=dtype)
        for tap, layer in start.items():
            scale, shift, std, dead = (
                value.detach().to(device, dtype)
                for value in (layer.scale, layer.shift, goals[tap].std, goals[tap].dead)
            )
            self._start[tap] = scale, shift
            self._units[tap] = torch.stack([scale, std]) * (1 - dead) * moves[:, None]
            self.steps[tap] = torch.zeros_like(self._units[tap], requires_grad=True)

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
        graph, state: the interpolated network, uncorrected; computed as the answers are
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
    device, dtype = answers.wanted.device, answers.wanted.dtype
    moving = MovingAffines(start, goals, restore, answers.wanted)
    placed = {
        name: t.to(dtype) if t.is_floating_point() else t
        for name, t in as_mapping(state, device).items()
    }
    generator = torch.Generator().manual_seed(SEED)
    own = _Own.of(len(answers.images), ranks)
    fitted, held_out = _split(own.everyones, generator)

    def loss(index: Tensor) -> Tensor:
        [output] = execute(
            graph, [placed], answers.batch(index), moving.correct, tuple(start), dtype
        )
        return answers.disagreement(output, index)

    def held_out_loss() -> float:
        with torch.no_grad():
            pieces = [own.part(piece) for piece in held_out.split(recipe.batch_size)]
            total = sum(float(loss(piece)) * len(piece) for piece in pieces if len(piece))
        return sum(ranks.exchange("held out", total)) / len(held_out)

    best, kept = held_out_loss(), moving.frozen()
    steps = recipe.epochs * math.ceil(len(fitted) / recipe.batch_size)
    optimizer = torch.optim.Adam(moving.steps.values(), lr=recipe.learning_rate)
    schedule = OneCycleLR(optimizer, recipe.learning_rate, total_steps=steps)
    with meter("distillation", recipe.epochs * len(fitted)) as done:
        for _ in range(recipe.epochs):
            order = fitted[torch.randperm(len(fitted), generator=generator)]
            for step in order.split(recipe.batch_size):
                index = own.part(step)
                optimizer.zero_grad()
                if len(index):
                    _backward(loss, index, len(index) / len(step))
                _add_up_gradients(list(moving.steps.values()), ranks)
                optimizer.step()
                schedule.step()
                done.update(len(index))
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


@dataclass(frozen=True)
class _Own:
    """Which of all ranks' images, counted in the order of ranks, are this rank's.

    Attributes:
        begin, end: their numbers
        everyones: how many there are on all ranks
    """

    begin: int
    end: int
    everyones: int

    @classmethod
    def of(cls, n: int, ranks: Ranks) -> "_Own":
        counts = ranks.exchange("to distil with", n)
        begin = sum(counts[: ranks.rank])
        return cls(begin, begin + n, sum(counts))

    def part(self, numbers: Tensor) -> Tensor:
        """Return those of some images that are this rank's, as it counts them."""
        return numbers[(numbers >= self.begin) & (numbers < self.end)] - self.begin


def _split(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return which images to fit to, and which to judge by."""
    order = torch.randperm(n, generator=generator)
    few = n < FEW
    count = int((0.5 if few else HELD_OUT) * n)
    enough = count >= (1 if few else LEAST_HELD_OUT)
    return (order[count:], order[:count]) if enough else (order, order)
