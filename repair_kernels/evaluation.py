"""What a merged network is worth: metrics along a path between two networks, and its barriers.

    barrier = max_alpha [ metric(alpha) - ((1 - alpha) metric(0) + alpha metric(1)) ]
    ratio   = sum_c var[X_alpha] / ((1 - alpha) sum_c var[X_a] + alpha sum_c var[X_b])

Source: REPAIR (Jordan et al., 2023), eq. 1 and section 3.1 (variance collapse).
"""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from jaxtyping import Shaped
from torch import Tensor

from repair_kernels.atomic import atomic_path
from repair_kernels.errors import ArgumentError

# Words in a metric's name that tell its direction; the first list wins ("top1_error").
LOWER_WORDS = {"loss", "error", "err", "nll", "perplexity", "ppl", "mse", "mae", "rmse"}
HIGHER_WORDS = {"accuracy", "acc", "top1", "top5", "f1", "auc", "auroc", "map", "iou", "r2"}
HIGHER_WORDS |= {"precision", "recall", "score", "bleu", "psnr"}


@dataclass(frozen=True)
class Path:
    """Metrics of the networks between two endpoints, for one or more ways of merging them.

    Args:
        alphas: weights of network b, rising from 0 to 1
        metrics: for each variant the values of each metric, one per alpha; those at the ends are
            the endpoints' own
        variance_ratios: for each variant that was measured so, and each tap in network order, the
            ratio of `variance_ratio`, one per alpha
        warnings: what is doubtful about the path, in words

    Raises:
        ArgumentError: when `alphas` do not rise from 0 to 1, or `metrics` has no variant, no
            metric, or not the same metrics with one value per alpha for every variant, or
            `variance_ratios` has a variant that `metrics` lacks, or not one value per alpha

    Example:
        >>> path = Path((0.0, 0.5, 1.0), {"forward": {"error": (0.1, 0.4, 0.2)}})
        >>> round(path.barrier("error", variant="forward"), 3)
        0.25
    """

    alphas: tuple[float, ...]
    metrics: Mapping[str, Mapping[str, tuple[float, ...]]]
    variance_ratios: Mapping[str, Mapping[str, tuple[float, ...]]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        rising = all(
            left < right for left, right in zip(self.alphas, self.alphas[1:], strict=False)
        )
        if not rising or len(self.alphas) < 2 or self.alphas[0] != 0 or self.alphas[-1] != 1:
            raise ArgumentError(
                f"`alphas` must rise from 0 to 1, but got {list(self.alphas)}; sort them and add "
                "the endpoints"
            )
        if not self.metrics or not self.metric_names:
            raise ArgumentError(
                "`metrics` must have values of one metric for one variant at least, but it is "
                "empty; let `evaluate` return such as {'loss': ...}"
            )
        for variant, curves in self.metrics.items():
            sizes = {name: len(values) for name, values in curves.items()}
            if sizes != dict.fromkeys(self.metric_names, len(self.alphas)):
                raise ArgumentError(
                    f"`metrics` must have {len(self.alphas)} values of each of "
                    f"{_listed(self.metric_names)} for every variant, but {variant!r} has "
                    f"{sizes or 'none'}; let `evaluate` return the same metrics each time"
                )
        for variant, taps in self.variance_ratios.items():
            _check_known("variance_ratios", variant, self.variants)
            for tap, ratios in taps.items():
                if len(ratios) != len(self.alphas):
                    raise ArgumentError(
                        f"`variance_ratios` must have {len(self.alphas)} values for every tap, "
                        f"but {tap!r} of {variant!r} has {len(ratios)}; measure it at every alpha"
                    )

    @property
    def variants(self) -> tuple[str, ...]:
        """The ways of merging, such as "none" and "forward"."""
        return tuple(self.metrics)

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The metrics that were evaluated, such as "loss" and "accuracy"."""
        return tuple(next(iter(self.metrics.values())))

    def higher_is_better(self, metric: str) -> bool:
        """Tell from a metric's name whether a higher value is better; unknown names are losses.

        Example:
            >>> path = Path((0.0, 1.0), {"none": {"val_accuracy": (1, 1), "top1_error": (0, 0)}})
            >>> path.higher_is_better("val_accuracy"), path.higher_is_better("top1_error")
            (True, False)
        """
        words = set(re.findall("[a-z0-9]+", metric.lower()))
        return bool(words & HIGHER_WORDS) and not words & LOWER_WORDS

    def values(self, metric: str, *, variant: str) -> tuple[float, ...]:
        """Return a metric's curve: one value per alpha.

        Raises:
            ArgumentError: when the path has no such variant or metric
        """
        _check_known("variant", variant, self.variants)
        _check_known("metric", metric, self.metric_names)
        return tuple(self.metrics[variant][metric])

    def endpoints(self, metric: str, *, variant: str | None = None) -> tuple[float, float]:
        """Return a metric of network a and of network b.

        Raises:
            ArgumentError: when the path has no such variant or metric
        """
        values = self.values(metric, variant=self.variants[0] if variant is None else variant)
        return values[0], values[-1]

    def excess(
        self, metric: str, *, variant: str, higher_is_better: bool | None = None
    ) -> tuple[float, ...]:
        """Return how much worse than the endpoints' straight line each network on the path is.

            excess(alpha) = metric(alpha) - ((1 - alpha) metric(0) + alpha metric(1))

        Args:
            metric: name of a metric
            variant: name of a variant
            higher_is_better: turns the sign; None tells it from the metric's name

        Raises:
            ArgumentError: when the path has no such variant or metric
        """
        values = self.values(metric, variant=variant)
        higher = self.higher_is_better(metric) if higher_is_better is None else higher_is_better
        lines = [(1 - alpha) * values[0] + alpha * values[-1] for alpha in self.alphas]
        return tuple(
            line - value if higher else value - line
            for value, line in zip(values, lines, strict=True)
        )

    def barrier(self, metric: str, *, variant: str, higher_is_better: bool | None = None) -> float:
        """Return the largest excess over the endpoints' straight line.

            barrier = max_alpha [ metric(alpha) - ((1 - alpha) metric(0) + alpha metric(1)) ]

        Args:
            metric: name of a metric
            variant: name of a variant
            higher_is_better: turns the sign, so that a barrier is always a loss of quality; None
                tells it from the metric's name ("accuracy" is better when higher)

        Returns:
            The barrier, in the metric's unit: 0 when no network on the path is worse than the line,
            NaN when a value on the path is.

        Raises:
            ArgumentError: when the path has no such variant or metric

        Source:
            REPAIR (Jordan et al., 2023), eq. 1
        """
        excess = self.excess(metric, variant=variant, higher_is_better=higher_is_better)
        return math.nan if any(map(math.isnan, excess)) else max(0.0, *excess)

    def worse(
        self, metric: str, *, variant: str, than: str = "none", higher_is_better: bool | None = None
    ) -> tuple[float, ...]:
        """Return the alphas at which a variant is worse than another, such as aligning only.

        Raises:
            ArgumentError: when the path has no such variant or metric
        """
        higher = self.higher_is_better(metric) if higher_is_better is None else higher_is_better
        sign = -1 if higher else 1
        pairs = zip(
            self.alphas,
            self.values(metric, variant=variant),
            self.values(metric, variant=than),
            strict=True,
        )
        # A NaN is worse than any number.
        return tuple(
            alpha
            for alpha, mine, other in pairs
            if not sign * mine <= sign * other and not math.isnan(other)
        )

    @property
    def middle(self) -> float:
        """The alpha next to 0.5."""
        return min(self.alphas, key=lambda alpha: abs(alpha - 0.5))

    def collapse(self, *, variant: str, alpha: float | None = None) -> dict[str, float]:
        """Return the variance ratio at every tap, for one of the alphas; default: `middle`.

        Raises:
            ArgumentError: when the ratios of this variant were not measured, or the path has no
                such alpha
        """
        _check_known("variant", variant, tuple(self.variance_ratios))
        alpha = self.middle if alpha is None else alpha
        if alpha not in self.alphas:
            raise ArgumentError(
                f"`alpha` must be one of {', '.join(f'{a:g}' for a in self.alphas)}, but got "
                f"{alpha!r}; sweep with it among `alphas`"
            )
        at = self.alphas.index(alpha)
        return {tap: ratios[at] for tap, ratios in self.variance_ratios[variant].items()}

    def table(self) -> str:
        """Return the path as a text table: for each metric the midpoint and barrier by variant.

        Where a variant is worse than aligning only ("none"), a line below says at which alphas;
        `warnings` come last.
        """
        index = self.alphas.index(self.middle)
        width = max(len(name) for name in (*self.variants, *self.metric_names))
        header = ("network a", "network b", f"alpha {self.middle:g}", "barrier")
        lines = []
        for metric in self.metric_names:
            lines.append("  ".join([metric.ljust(width), *(f"{word:>10}" for word in header)]))
            for variant in self.variants:
                values = self.values(metric, variant=variant)
                row = (values[0], values[-1], values[index], self.barrier(metric, variant=variant))
                lines.append("  ".join([variant.ljust(width), *(f"{x:>10.4g}" for x in row)]))
            for variant in self.variants if "none" in self.variants else ():
                worse = ", ".join(f"{alpha:g}" for alpha in self.worse(metric, variant=variant))
                if worse and variant != "plain":
                    lines.append(f"{variant} is worse than aligning only at alpha {worse}")
            lines.append("")
        return "\n".join([*lines, *self.warnings]).rstrip("\n")

    def to_csv(self, file: str | os.PathLike[str]) -> None:
        """Write the curves, one row per variant and alpha, one column per metric.

        Raises:
            OSError: when the file cannot be written; what lay there is then as before
        """
        with atomic_path(file) as temporary, open(temporary, "w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["variant", "alpha", *self.metric_names])
            for variant in self.variants:
                curves = [self.values(metric, variant=variant) for metric in self.metric_names]
                for row in zip(self.alphas, *curves, strict=True):
                    writer.writerow([variant, *row])

    def variances_to_csv(self, file: str | os.PathLike[str]) -> None:
        """Write the variance ratios, one row per variant, alpha and tap.

        Raises:
            OSError: when the file cannot be written; what lay there is then as before
        """
        with atomic_path(file) as temporary, open(temporary, "w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["variant", "alpha", "tap", "variance_ratio"])
            for variant, taps in self.variance_ratios.items():
                for number, alpha in enumerate(self.alphas):
                    rows = ([variant, alpha, tap, ratios[number]] for tap, ratios in taps.items())
                    writer.writerows(rows)

    def plot_variances(self, file: str | os.PathLike[str], *, alpha: float | None = None) -> None:
        """Draw the variance ratio by depth, one curve per variant; see `plot_variance_collapse`."""
        from repair_kernels.plotting import plot_variance_collapse

        variants = tuple(self.variance_ratios)
        plot_variance_collapse({v: self.collapse(variant=v, alpha=alpha) for v in variants}, file)

    def plot(self, file: str | os.PathLike[str], *, metric: str | None = None) -> None:
        """Draw the curves of a metric, or of each metric, into a picture; see `plot_barrier`."""
        from repair_kernels.plotting import plot_barrier

        plot_barrier(self, file, metric=metric)


def variance_ratio(
    var_alpha: Shaped[Tensor, " c"],
    var_a: Shaped[Tensor, " c"],
    var_b: Shaped[Tensor, " c"],
    alpha: float,
) -> float:
    """Return how much of the endpoints' variance a network between them has at one tap.

        ratio = sum_c var[X_alpha] / ((1 - alpha) sum_c var[X_a] + alpha sum_c var[X_b])

    Args:
        var_alpha: variance of each channel in the network between the endpoints
        var_a: variance of each channel in network a
        var_b: variance of each channel in network b, in any order of its channels
        alpha: weight of network b, in [0, 1]

    Returns:
        1 without variance collapse, less with it; NaN when no channel of the endpoints varies.

    Raises:
        ArgumentError: when alpha is outside [0, 1]

    Source:
        REPAIR (Jordan et al., 2023), section 3.1

    Example:
        >>> import torch
        >>> variance_ratio(torch.ones(2), 2 * torch.ones(2), 6 * torch.ones(2), 0.5)
        0.25
    """
    if not 0 <= alpha <= 1:
        raise ArgumentError(f"`alpha` must be in [0, 1], but got {alpha}; it is the weight of b")
    total_alpha, total_a, total_b = (float(var.double().sum()) for var in (var_alpha, var_a, var_b))
    goal = (1 - alpha) * total_a + alpha * total_b
    return total_alpha / goal if goal > 0 else math.nan


def _check_known(kind: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise ArgumentError(
            f"`{kind}` must be one of {_listed(known)}, but got {name!r}; ask for one that the "
            "path was evaluated with"
        )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names)
