"""REPAIR: give the channels of interpolated networks the interpolated mean and std."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from repair_kernels.batches import open_batches
from repair_kernels.calibration.assembly import assemble
from repair_kernels.calibration.assessment import assess, check_on_worse, closed_form_premise
from repair_kernels.calibration.channel_statistics import paired_averages
from repair_kernels.calibration.goals import check_restore, goal
from repair_kernels.calibration.norm_reset import check_has_norms
from repair_kernels.calibration.variants import (
    READS_DATA,
    check_batch_mean,
    check_variant,
    correct,
    correction_taps,
)
from repair_kernels.endpoints import capture_pair, check_alpha, choose_device, preserved_rng
from repair_kernels.errors import ArgumentError, CalibrationDataError, CalibrationWarning
from repair_kernels.graph.network import state_of
from repair_kernels.graph.permutation import with_state
from repair_kernels.interpolation import interpolate, interpolate_state
from repair_kernels.moments import PairedMoments
from repair_kernels.ranks import Ranks
from repair_kernels.statistics.all_reduce import merged_stats
from repair_kernels.statistics.collecting import collect


def calibrate(
    model_a: nn.Module,
    model_b: nn.Module,
    batches: Iterable[Any],
    *,
    alpha: float = 0.5,
    variant: str = "forward",
    stats: Mapping[str, PairedMoments] | None = None,
    taps: Sequence[str] | str | None = None,
    restore: str = "both",
    batch_mean: bool = False,
    n_samples: int | None = None,
    device: torch.device | str | None = None,
    backend: str | None = None,
    add_bias: bool = False,
    on_worse: str | None = "warn",
    process_group: Any = None,
) -> nn.Module:
    """Interpolate two aligned networks and restore the statistics of the chosen taps.

    Args:
        model_a, model_b: networks of one architecture, b already permuted into a's order
        batches: calibration data; read once for the endpoints' statistics if `stats` is None, and
            once more by "forward" and "sequential", twice more by "distilled", not again by
            "closed_form"; "reset_norm" reads them once in all
        alpha: weight of network b, in [0, 1]; 0 and 1 give the endpoints back
        variant: "forward", "closed_form", "sequential", "distilled", or "reset_norm": only
            BatchNorms' running statistics are computed anew, whatever `taps` says
        stats: the statistics of `model_a` and `model_b` as they are given here, if they are known
        taps: what to correct: names, patterns ("layer1.*.conv2") and kinds ("conv", "block",
            "norm", "activation", "all"), one or several; default: the outputs of all convolutions,
            linear maps and (but for "closed_form") residual blocks, except the network's output
        restore: "both" mean and std, the "std" alone (channels are scaled about zero), or the
            "mean" alone (channels are shifted; nothing to do for "closed_form")
        batch_mean: let "forward" average the means and stds of batches, each with the same weight,
            as the published code does; for comparisons only. Not with `stats`, which are pooled
        n_samples: how many images to use at most
        add_bias: whether a layer without a bias may get one, where nothing else holds a shift; it
            is a new name among the weights. Otherwise the shift is an explicit layer.
        on_worse: what to do if the corrected network's loss on `batches` is worse than that of the
            network without corrections: "warn" (`CalibrationWarning`), or return the latter
            ("aligned", which warns as well); None: do not measure it. Measuring is one more pass;
            data that can be read once only is not measured on
        process_group: a torch.distributed group: each rank gives its own part of the calibration
            data, and all get the same network, to the bit. See docs/processes.md
    Returns:
        a new network: of the class of `model_a` with corrections in its weights, and explicit
        `ChannelAffine` layers where they cannot be folded; on the device of `model_a`
    Raises:
        ArgumentError, ArchitectureMismatchError, CalibrationDataError, NonFiniteActivationError,
        GraphCaptureError; FailedRankError or LostRankError where another rank failed, or is gone
    Source:
        REPAIR (Jordan et al., 2023), §4
    """
    alpha, variant, restore = check_alpha(alpha), check_variant(variant), check_restore(restore)
    check_on_worse(on_worse, optional=True)
    if batch_mean and stats is not None:
        raise ArgumentError(
            "`batch_mean` averages over batches, and `stats` are pooled; give one of the two"
        )
    device = choose_device(device, model_a)
    ranks = Ranks(process_group, device)
    check_batch_mean(batch_mean, [variant], ranks)
    told = {"alpha": alpha, "variant": variant, "taps": taps, "restore": restore}
    told |= {"stats": stats is not None, "add_bias": add_bias, "on_worse": on_worse}
    with preserved_rng(device), ranks.together("calibrate", **told):
        data = open_batches(batches, n_samples, ranks)
        graph = capture_pair(model_a, model_b, data, ranks)
        data.device = device
        chosen = correction_taps(graph, variant, taps)
        if variant == "reset_norm":
            check_has_norms(graph)
        if alpha in (0, 1):
            return interpolate(model_a, model_b, alpha, backend=backend)
        n_passes = (stats is None and bool(chosen)) + (variant in READS_DATA)
        if n_passes + (variant == "distilled") > 1 and not data.is_repeatable:
            raise CalibrationDataError(
                f"variant {variant!r} reads `batches` more than once here, and an iterator can be "
                "read once only; pass a list or a DataLoader, or use `variant='closed_form'`"
            )
        state_a, state_b = state_of(model_a), state_of(model_b)
        if stats is None and batch_mean:
            stats = paired_averages(graph, state_a, state_b, data, taps=chosen, backend=backend)
        elif stats is None:
            # The networks are aligned: channel i of a is paired with channel i of b alone.
            paired = chosen if variant == "closed_form" else ()
            stats = (
                {}
                if not chosen
                else merged_stats(
                    collect(
                        graph,
                        state_a,
                        state_b,
                        data,
                        taps=chosen,
                        cross=(),
                        diagonal=paired,
                        backend=backend,
                    ),
                    ranks,
                    overwrite=True,
                )
            )
        merged = interpolate_state(state_a, state_b, alpha, backend=backend)
        [corrections] = correct(
            graph,
            [merged],
            (state_a, state_b),
            data,
            stats,
            chosen,
            [alpha],
            variant,
            restore=restore,
            batch_mean=batch_mean,
            backend=backend,
            ranks=ranks,
        )
        network = assemble(model_a, graph, merged, corrections, add_bias=add_bias)
        found = None
        if on_worse is not None and network.is_changed and data.is_repeatable:
            ends = state_a, state_b
            goals = {}
            if variant == "closed_form":
                goals = {tap: goal(stats[tap].to(device), alpha) for tap in network.corrected}
            found = assess(graph, network, ends, goals, data, alpha, backend=backend, ranks=ranks)
        said = list(data.doubts())
    returned = "corrected"
    if found is not None and found.is_worse:
        returned = "aligned" if on_worse == "aligned" else "corrected"
        said.append(found.worse(returned))
    said += closed_form_premise(found.exactness) if found is not None else ()
    for warning in said:
        warnings.warn(warning, CalibrationWarning, stacklevel=2)
    return network.model if returned == "corrected" else with_state(model_a, merged)
