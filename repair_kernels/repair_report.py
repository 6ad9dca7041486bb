"""What a repair gives back: the merged network, and what was done and found."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from repair_kernels.balancing import BalanceReport
from repair_kernels.calibration.assessment import Exactness
from repair_kernels.calibration.output_losses import Losses
from repair_kernels.graph.permutation import Permutation
from repair_kernels.statistics.paired_stats import PairedStats


@dataclass(frozen=True)
class RepairReport:
    """What was done to the networks, and what came of it on the calibration data.

    Attributes:
        variant: the variant of REPAIR, or "none"
        alpha: weight of network b
        permutation_deviation: largest difference that the permutation made to b's output, relative
            to its largest output; None if `verify` was off
        matched_correlation: by group, the mean correlation of matched channels
        corrected: taps that were corrected
        explicit: those of them whose correction stays as a `ChannelAffine` layer, because no weight
            can hold it
        dead_channels: by corrected tap, how many channels were left uncorrected because both
            endpoints' are dead
        n_images: how many images the statistics saw
        folding_deviation: largest difference of the corrected network's output to that of the same
            network whose corrections are layers of their own, in float64 on a few images, relative
            to the largest output; None if `verify` was off or nothing was corrected
        norms_reset: how many BatchNorms have new statistics (variant "reset_norm")
        exactness: by corrected tap, how far the corrected network is from eqs. (3) and (4), folded
            and in evaluation mode, whether it is returned or not; empty if it was not assessed
        losses: of the aligned and of the corrected network on the calibration data; None if they
            were not assessed
        returned: "corrected"; or "aligned", if the calibration made the loss worse and the network
            that was aligned only is returned instead
        cancelled: by tap, channels for which the closed form predicts no variance; they were left
            alone
        balance: how b's scales and signs compared to a's, layer by layer
        warnings: what else was found wrong, in words
    """

    variant: str
    alpha: float
    permutation_deviation: float | None
    matched_correlation: Mapping[str, float]
    corrected: tuple[str, ...]
    explicit: tuple[str, ...]
    dead_channels: Mapping[str, int]
    n_images: int
    folding_deviation: float | None = None
    norms_reset: int = 0
    exactness: Mapping[str, Exactness] = field(default_factory=dict)
    losses: Losses | None = None
    returned: str = "corrected"
    cancelled: Mapping[str, int] = field(default_factory=dict)
    balance: BalanceReport | None = None
    warnings: tuple[str, ...] = ()

    def worst(self) -> Exactness | None:
        """Return the largest errors over all corrected taps, and all dead channels together."""
        if not self.exactness:
            return None
        taps = self.exactness.values()
        mean, std = max(tap.mean for tap in taps), max(tap.std for tap in taps)
        return Exactness(mean, std, sum(tap.dead for tap in taps))

    def __str__(self) -> str:
        deviation = self.permutation_deviation
        verified = "not verified" if deviation is None else f"deviates by {deviation:.1e}"
        mean = sum(self.matched_correlation.values()) / max(1, len(self.matched_correlation))
        folded = self.folding_deviation
        folding = "" if folded is None else f"; folding the others deviates by {folded:.1e}"
        lines = [
            f"variant {self.variant} at alpha {self.alpha:g}, statistics of {self.n_images} images",
            f"permutation: {len(self.matched_correlation)} groups, mean matched correlation "
            f"{mean:.3f}, the permuted network {verified}",
            f"corrected: {len(self.corrected)} taps, of which explicit layers: "
            f"{', '.join(self.explicit) or 'none'}{folding}",
            f"dead channels left alone: {sum(self.dead_channels.values())}",
        ]
        if self.balance is not None and not math.isnan(self.balance.ratio):
            lines.append(
                f"scales of b's weights: {self.balance.ratio:.3g} of a's; opposite signs: "
                f"{self.balance.opposite} channels; balanced: {self.balance.mode}"
            )
        if self.norms_reset:
            lines.append(f"BatchNorms reset: {self.norms_reset}")
        if self.cancelled:
            lines.append(f"channels that cancel out, left alone: {sum(self.cancelled.values())}")
        worst = self.worst()
        if worst is not None:
            goals = "goals on the calibration data"
            if self.variant == "distilled":
                goals = "statistics, which distillation leaves for the answers' sake"
            if self.returned == "aligned":
                goals += " (of the corrected network, which is not returned)"
            lines.append(
                f"{goals}: means within {worst.mean:.1e} of a std, stds within {worst.std:.1e}"
            )
        if self.losses is not None:
            lines.append(
                f"{self.losses.kind} on the calibration data: {self.losses.aligned:.4g} aligned, "
                f"{self.losses.corrected:.4g} corrected"
            )
        return "\n".join([*lines, *self.warnings])


@dataclass(frozen=True)
class RepairResult:
    """A merged network and how it came to be.

    Attributes:
        model: the merged network
        permutations: by group, b's channels in a's order
        stats: statistics of both endpoints as they were given
        report: what was done
    """

    model: nn.Module
    permutations: Mapping[str, Permutation]
    stats: PairedStats
    report: RepairReport


UNLIKE = 1.5
"""A ratio of scales from which alpha no longer says how much of b is in the merged network."""


def unlike_scales(report: RepairReport) -> tuple[str, ...]:
    """Say that one network outweighs the other, if it does."""
    balance = report.balance
    if balance is None or balance.mode in ("layer", "channel"):
        return ()
    ratio = balance.ratio
    if not (ratio > UNLIKE or ratio < 1 / UNLIKE):
        return ()
    heavy = "b" if ratio > 1 else "a"
    return (
        f"b's weights are {ratio:.2g} times as large as a's, so that alpha {report.alpha:g} lies "
        f"nearer to {heavy} than it says; `balance='layer'` makes alphas comparable",
    )
