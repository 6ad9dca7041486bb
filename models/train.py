"""Train a network by a recipe.

    python -m models.train --recipe fashion_resnet20 --seed 0 --out a.safetensors

The seed fixes the first weights, the order of the images and their random changes; every epoch has
its own generator, so a run that was stopped goes on as if it had not been. Beside the checkpoint
goes a `.json` report with what was run and what came out.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn
from tqdm import tqdm

from models.augmentation import cutout, flip, translate
from models.datasets import image_set_of, load, normalise
from models.evaluate import evaluate
from models.recipes import RECIPES, Recipe

PRECISIONS = ("float32", "bf16")


def train(
    recipe: Recipe,
    images: Tensor,
    labels: Tensor,
    *,
    seed: int,
    device: torch.device | str | None = None,
    precision: str | None = None,
    resume_file: str | Path | None = None,
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
        resume_file: written after every epoch; where it exists, training goes on from it.
        progress: whether to show a bar.
        after_epoch: called with {"epoch", "loss", "accuracy", "seconds"} of each training epoch.

    Returns:
        The network, on `device`. A run that was stopped and resumed gives the same weights.

    Raises:
        ValueError: when `precision` is unknown, the images are fewer than a batch, or
            `resume_file` is of another run.
        RuntimeError: when the loss is not finite.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    precision = precision or ("bf16" if device.type == "cuda" else "float32")
    if precision not in PRECISIONS:
        raise ValueError(f"`precision` must be one of {PRECISIONS}, got {precision!r}")
    steps = len(images) // recipe.batch_size
    if steps == 0:
        raise ValueError(f"{len(images)} `images` are fewer than a batch of {recipe.batch_size}")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = recipe.build().to(device, memory_format=torch.channels_last)
    optimizer = _optimizer(recipe, model)
    run = {"recipe": repr(recipe), "seed": seed, "images": len(images), "precision": precision}
    first = _resume(resume_file, run, model, optimizer)
    images, labels = images.to(device), labels.to(device)
    for epoch in range(first, recipe.epochs):
        began = time.perf_counter()
        generator = torch.Generator().manual_seed(1_000_003 * seed + epoch + 1)
        order = torch.randperm(len(images), generator=generator).to(device)
        totals = torch.zeros(2, dtype=torch.float64, device=device)
        model.train()
        bar = tqdm(range(steps), f"epoch {epoch + 1}/{recipe.epochs}", disable=not progress)
        for step in bar:
            for group in optimizer.param_groups:
                done = (epoch * steps + step + 1) / (recipe.epochs * steps)
                group["lr"] = recipe.learning_rate(done) * group["lr_factor"]
            chosen = order[step * recipe.batch_size : (step + 1) * recipe.batch_size]
            x = prepare(recipe, images[chosen], generator)
            totals += _step(recipe, model, optimizer, x, labels[chosen], precision)
        loss, correct = (totals / (steps * recipe.batch_size)).tolist()
        if not torch.isfinite(totals).all():
            raise RuntimeError(
                f"the loss of epoch {epoch + 1} is not finite; lower the recipe's `lr`"
            )
        if resume_file is not None:
            _save_resume(Path(resume_file), run, epoch + 1, model, optimizer)
        if after_epoch is not None:
            seconds = time.perf_counter() - began
            after_epoch({"epoch": epoch + 1, "loss": loss, "accuracy": correct, "seconds": seconds})
    return model.eval()


def prepare(recipe: Recipe, images: Tensor, generator: torch.Generator) -> Tensor:
    """Return the recipe's random changes of the images, normalised, channels last."""
    image_set = image_set_of(recipe.dataset)
    # Shifts bring in what surrounds the object: black, or the mean colour of photographs.
    grey = image_set.shape[0] == 1
    fill = torch.zeros(1) if grey else torch.tensor(image_set.mean) * 255
    if recipe.flip:
        images = flip(images, generator)
    if recipe.translate:
        images = translate(images, recipe.translate, generator, fill)
    if recipe.cutout:
        images = cutout(images, recipe.cutout, generator, fill)
    return normalise(images, recipe.dataset).contiguous(memory_format=torch.channels_last)


def _optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.SGD:
    """Return SGD with the one-element parameters in a group of their own."""
    scalars = [p for p in model.parameters() if p.numel() == 1]
    others = [p for p in model.parameters() if p.numel() > 1]
    groups = [{"params": others, "lr_factor": 1.0}]
    if scalars:
        groups.append({"params": scalars, "lr_factor": recipe.scalar_lr})
    return torch.optim.SGD(
        groups,
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
    )


def _step(
    recipe: Recipe,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
    precision: str,
) -> Tensor:
    """Do one step of SGD; return the sums of the losses and of the right answers."""
    with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
        logits = model(x)
    loss = F.cross_entropy(logits.float(), y)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if recipe.clip is not None:
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
    optimizer.step()
    correct = (logits.argmax(dim=1) == y).sum()
    return torch.stack([loss.detach().double() * len(y), correct.double()])


def _save_resume(
    path: Path, run: dict, epoch: int, model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    state = {"run": run, "epoch": epoch}
    state |= {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    with _replacing(path) as temporary:
        torch.save(state, temporary)


def _resume(
    path: str | Path | None, run: dict, model: nn.Module, optimizer: torch.optim.Optimizer
) -> int:
    """Load the state of a stopped run, if there is one; return the epochs already done."""
    if path is None or not Path(path).is_file():
        return 0
    state = torch.load(path, map_location="cpu", weights_only=True)
    if state["run"] != run:
        raise ValueError(f"{path} is of another run ({state['run']}); remove it to start anew")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state["epoch"]


@contextmanager
def _replacing(path: Path):
    """Give a temporary name beside `path` that takes its place if all goes well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + f".{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_checkpoint(model: nn.Module, path: str | Path) -> None:
    """Write the model's state dict as safetensors, whole or not at all."""
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    with _replacing(Path(path)) as temporary:
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
    with _replacing(options.out.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n")
    resume_file.unlink(missing_ok=True)
    accuracy, loss = result["accuracy"], result["loss"]
    print(f"test accuracy {accuracy:.4f} loss {loss:.4f} -> {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
