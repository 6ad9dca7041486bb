"""Train a network by a recipe.

    python -m models.train --recipe fashion_resnet20 --seed 0 --out a.safetensors

The seed fixes the first weights, the order of the images and their random changes; every epoch has
its own generator, so a run that was stopped goes on as if it had not been. Beside the checkpoint
goes a `.json` report with what was run and what came out.
"""

import argparse
import json
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from models.datasets import load
from models.evaluate import evaluate
from models.recipes import RECIPES, Recipe
from models.run import PRECISIONS, TrainingRun, replacing


def train(
    recipe: Recipe,
    images: Tensor,
    labels: Tensor,
    *,
    seed: int,
    device: torch.device | str | None = None,
    precision: str | None = None,
    compiled: bool = False,
    resume_file: str | Path | None = None,
    start: Mapping[str, Tensor] | None = None,
    progress: bool = False,
    after_epoch: Callable[[dict[str, float]], None] | None = None,
) -> nn.Module:
    """Train the network of `recipe` on labelled images and return it, in evaluation mode.

    Args:
        recipe: what to train, and how.
        images: uint8 (n, channels, h, w).
        labels: (n,).
        seed: of the first weights, of the order of the images and of their random changes.
        device: where to train; by default the GPU if there is one.
        precision: "float32" or "bf16" (mixed, float32 weights); by default bf16 on a GPU.
        compiled: whether `torch.compile` compiles the network: pays for long runs.
        resume_file: written after every epoch; where it exists, training goes on from it.
        start: state dict of the network to train on, of the recipe that `recipe` comes `after`.
        progress: whether to show a bar.
        after_epoch: called with {"epoch", "loss", "accuracy", "seconds"} of each training epoch.

    Returns:
        The network, on `device`. A run that was stopped and resumed gives the same weights.

    Raises:
        ValueError: when `precision` is unknown, the images are fewer than a batch,
            `resume_file` is of another run, or `start` is missing or not asked for.
        RuntimeError: when the loss is not finite.
    """
    [model] = train_side_by_side(
        recipe,
        [(images, labels)],
        seeds=[seed],
        device=device,
        precision=precision,
        compiled=compiled,
        resume_files=None if resume_file is None else [resume_file],
        starts=None if start is None else [start],
        progress=progress,
        after_epoch=None if after_epoch is None else lambda _, report: after_epoch(report),
    )
    return model


def train_side_by_side(
    recipe: Recipe,
    data: Sequence[tuple[Tensor, Tensor]],
    *,
    seeds: Sequence[int],
    device: torch.device | str | None = None,
    precision: str | None = None,
    compiled: bool = False,
    resume_files: Sequence[str | Path] | None = None,
    resume_seconds: float = 0.0,
    starts: Sequence[Mapping[str, Tensor]] | None = None,
    progress: bool = False,
    after_epoch: Callable[[int, dict[str, float]], None] | None = None,
) -> list[nn.Module]:
    """Train networks of one recipe on one device: each takes a step in turn.

    On a GPU the steps of one are queued while those of another run. Each network is what `train`
    gives with its seed and images alone.

    Args:
        data: images and labels of each network; may be the same ones
        seeds: of each network
        resume_files: of each network
        resume_seconds: least time between two writings of a resume file
        starts: state dicts of the networks to train on
        after_epoch: called with the network's number and what `train` says
        the rest: see `train`

    Raises:
        ValueError: when `data`, `seeds`, `resume_files` and `starts` are not of one length, and as
            `train`.
        RuntimeError: when a loss is not finite.
    """
    files = [None] * len(seeds) if resume_files is None else [Path(file) for file in resume_files]
    begun = [None] * len(seeds) if starts is None else starts
    if not len(data) == len(seeds) == len(files) == len(begun):
        raise ValueError(
            f"`data`, `seeds`, `resume_files` and `starts` must have one entry for each network, "
            f"got {len(data)}, {len(seeds)}, {len(files)} and {len(begun)}"
        )
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    precision = precision or ("bf16" if device.type == "cuda" else "float32")
    runs = [
        TrainingRun(
            recipe, *labelled, seed, device, precision, compiled, file, resume_seconds, start
        )
        for labelled, seed, file, start in zip(data, seeds, files, begun, strict=True)
    ]
    while unfinished := [run for run in runs if run.done < recipe.epochs]:
        # Those that are behind first: after a stop, one may have been saved an epoch later.
        least = min(run.done for run in unfinished)
        together = [run for run in unfinished if run.done == least]
        for _ in zip_longest(*(run.epoch(progress) for run in together)):
            pass
        for run in together:
            if after_epoch is not None:
                after_epoch(runs.index(run), run.report)
    return [run.model.eval() for run in runs]


def save_checkpoint(model: nn.Module, path: str | Path) -> None:
    """Write the model's state dict as safetensors, whole or not at all."""
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    with replacing(Path(path)) as temporary:
        temporary.write_bytes(save(state))


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m models.train", description=__doc__)
    parser.add_argument(
        "--recipe",
        required=True,
        choices=sorted(RECIPES),
        metavar="NAME",
        help="one of: " + ", ".join(sorted(RECIPES)),
    )
    parser.add_argument("--seed", type=int, required=True, help="fixes everything random")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint, .safetensors")
    parser.add_argument("--data", type=Path, help="folder of the image sets (else $REPAIR_DATA)")
    parser.add_argument("--device", help='"cuda" or "cpu"; by default a GPU if there is one')
    parser.add_argument("--precision", choices=PRECISIONS, help="by default bf16 on a GPU")
    parser.add_argument("--threads", type=int, help="CPU threads")
    options = parser.parse_args(arguments)
    if options.out.suffix != ".safetensors":
        parser.error(f"--out must end in .safetensors, got {options.out.name}")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    recipe = RECIPES[options.recipe]
    images, labels = load(recipe.dataset, "train", root=options.data, embedded=False)
    test_images, test_labels = load(recipe.dataset, "test", root=options.data, embedded=False)
    history: list[dict[str, float]] = []

    def report_epoch(epoch: dict[str, float]) -> None:
        history.append(epoch)
        print(" ".join(f"{key} {value:.4g}" for key, value in epoch.items()), flush=True)

    resume_file = options.out.with_suffix(".resume.pt")
    model = train(
        recipe,
        images,
        labels,
        seed=options.seed,
        device=options.device,
        precision=options.precision,
        resume_file=resume_file,
        progress=sys.stderr.isatty(),
        after_epoch=report_epoch,
    )
    result = evaluate(model, test_images, test_labels, normalise=recipe.dataset)
    report = {
        "recipe": options.recipe,
        "settings": {key: getattr(recipe, key) for key in recipe.__dataclass_fields__}
        | {"options": dict(recipe.options)},
        "seed": options.seed,
        "command": "python -m models.train " + " ".join(arguments or sys.argv[1:]),
        "test_images": len(test_images),
        "test": result,
        "last_epoch": history[-1] if history else None,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    save_checkpoint(model, options.out)
    with replacing(options.out.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n")
    resume_file.unlink(missing_ok=True)
    accuracy, loss = result["accuracy"], result["loss"]
    print(f"test accuracy {accuracy:.4f} loss {loss:.4f} -> {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
