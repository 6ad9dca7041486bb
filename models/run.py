"""One network on its way through a recipe, epoch by epoch, so that several can take turns."""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from models.augmentation import alternate_flip, cutout, flip, translate
from models.datasets import image_set_of, normalise
from models.recipes import Recipe

PRECISIONS = ("float32", "bf16")


@dataclass(eq=False)
class TrainingRun:
    """A network, its optimizer and how far it is; see `models.train.train` for the arguments.

    Every epoch has a generator of its own, made of the seed and the epoch's number, so that neither
    a stop between epochs nor other runs change what is drawn. Where the recipe trains another's
    network on, the epochs are numbered through.
    """

    recipe: Recipe
    images: Tensor
    labels: Tensor
    seed: int
    device: torch.device
    precision: str
    compiled: bool = False
    resume_file: Path | None = None
    resume_seconds: float = 0.0
    start: Mapping[str, Tensor] | None = None
    model: nn.Module = field(init=False)
    done: int = field(init=False, default=0)
    report: dict[str, float] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"`precision` must be one of {PRECISIONS}, got {self.precision!r}")
        if self.steps == 0:
            raise ValueError(
                f"{len(self.images)} `images` are fewer than a batch of {self.recipe.batch_size}"
            )
        if (self.start is None) != (self.recipe.after is None):
            raise ValueError(
                "`start` must be the network of the recipe that this one comes `after`, "
                f"got {'none' if self.start is None else 'one for a recipe that begins anew'}"
            )
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            model = self.recipe.build()
        if self.start is not None:
            model.load_state_dict(self.start)
        self.model = model.to(self.device, memory_format=torch.channels_last)
        self._forward = torch.compile(self.model) if self.compiled else self.model
        self._optimizer = optimizer_of(self.recipe, self.model)
        self._saved = time.monotonic()
        self._resume()
        self.images, self.labels = self.images.to(self.device), self.labels.to(self.device)

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return len(self.images) // self.recipe.batch_size

    def epoch(self, progress: bool = False) -> Iterator[None]:
        """Go through the next epoch, and yield after every step; `report` tells how it went."""
        recipe, began = self.recipe, time.perf_counter()
        number = recipe.epochs_before + self.done
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + number + 1)
        order = torch.randperm(len(self.images), generator=generator).to(self.device)
        totals = torch.zeros(2, dtype=torch.float64, device=self.device)
        self.model.train()
        title = f"epoch {self.done + 1}/{recipe.epochs}"
        for step in tqdm(range(self.steps), title, disable=not progress):
            part = (self.done * self.steps + step + 1) / (recipe.epochs * self.steps)
            for group in self._optimizer.param_groups:
                group["lr"] = recipe.learning_rate(part) * group["lr_factor"]
            chosen = order[step * recipe.batch_size : (step + 1) * recipe.batch_size]
            x = self._prepared(chosen, number, generator)
            totals += self._step(x, self.labels[chosen])
            yield
        loss, accuracy = (totals / (self.steps * recipe.batch_size)).tolist()
        self.done += 1
        if not torch.isfinite(totals).all():
            raise RuntimeError(
                f"the loss of epoch {self.done} is not finite; lower the recipe's `lr`"
            )
        seconds = time.perf_counter() - began
        self.report = {
            "epoch": self.done,
            "loss": loss,
            "accuracy": accuracy,
            "seconds": seconds,
        }
        self._save()

    def _prepared(self, chosen: Tensor, number: int, generator: torch.Generator) -> Tensor:
        images = self.images[chosen]
        if self.recipe.alternate_flip:
            images = alternate_flip(images, chosen, self.seed, number)
        return prepare(self.recipe, images, generator)

    def _step(self, x: Tensor, y: Tensor) -> Tensor:
        """Do one step of SGD; return the sums of the losses and of the right answers."""
        recipe, bf16 = self.recipe, self.precision == "bf16"
        with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=bf16):
            logits = self._forward(x)
        loss = F.cross_entropy(logits.float(), y, label_smoothing=recipe.label_smoothing)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if recipe.clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip)
        self._optimizer.step()
        correct = (logits.argmax(dim=1) == y).sum()
        return torch.stack([loss.detach().double() * len(y), correct.double()])

    @property
    def _identity(self) -> dict:
        """What a resume file must agree with."""
        return {
            "recipe": repr(self.recipe),
            "seed": self.seed,
            "images": len(self.images),
            "precision": self.precision,
        }

    def _save(self) -> None:
        if self.resume_file is None or time.monotonic() - self._saved < self.resume_seconds:
            return
        state = {"run": self._identity, "epoch": self.done, "model": self.model.state_dict()}
        state["optimizer"] = self._optimizer.state_dict()
        with replacing(self.resume_file) as temporary:
            torch.save(state, temporary)
        self._saved = time.monotonic()

    def _resume(self) -> None:
        """Load the state of a stopped run, if there is one."""
        if self.resume_file is None or not self.resume_file.is_file():
            return
        state = torch.load(self.resume_file, map_location="cpu", weights_only=True)
        if state["run"] != self._identity:
            raise ValueError(
                f"{self.resume_file} is of another run ({state['run']}); remove it to start anew"
            )
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.done = state["epoch"]


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


def optimizer_of(recipe: Recipe, model: nn.Module) -> torch.optim.SGD:
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


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path` that takes its place if all goes well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + f".{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
