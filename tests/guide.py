"""The code of the guide's pages, and a place where it can run: a small network, a few images.

The pages speak of ResNet50 and ImageNet; `stand_in` puts a network of two blocks and eight images
in their place, under the same names.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from PIL import Image
from torch import nn

from models.resnet import CifarResNet
from repair_kernels.checkpoints import save_state_dict

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([DOCS / "index.md", *(DOCS / "guide").glob("*.md")])
FENCE = re.compile(
    r'^```(?P<language>\w*)(?: title="(?P<title>[^"]+)")?\n(?P<code>.*?)^```$', re.DOTALL | re.M
)
# What a page may call beside the commands that a test runs; recorded, and not run.
PROGRAMS = ("repair-kernels", "torchrun", "python", "make", "pip", "sbatch", "srun", "scontrol")
CLASSES = 4
SEPARATOR = "\037"


@dataclass(frozen=True)
class Block:
    """One block of code of a page."""

    language: str
    title: str | None
    code: str


def blocks(page: Path, language: str | None = None) -> list[Block]:
    """Return the blocks of code of a page, in order; of one language or all."""
    found = [Block(m["language"], m["title"], m["code"]) for m in FENCE.finditer(page.read_text())]
    return [block for block in found if language in (None, block.language)]


def network(**_: Any) -> nn.Module:
    """Return the network that stands for ResNet50."""
    return CifarResNet((1, 1), (4, 8), classes=CLASSES)


def stand_in(folder: Path, monkeypatch: Any) -> None:
    """Go to a folder with what the pages speak of: networks, images and shards."""
    models = ModuleType("torchvision.models")
    models.resnet50 = network  # type: ignore[attr-defined]
    models.list_models = lambda: ["resnet50"]  # type: ignore[attr-defined]
    models.get_model = lambda name, **options: network(**options)  # type: ignore[attr-defined]
    package = ModuleType("torchvision")
    package.models = models  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.chdir(folder)
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        save_state_dict(network().state_dict(), folder / f"{name}.pth")
    for part in ("train", "val"):
        for number in range(2 * CLASSES):
            file = folder / "imagenet" / part / f"class{number % CLASSES}" / f"{number}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            pixels = torch.randint(0, 256, (40, 50, 3), dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(file)
    (folder / "shards").mkdir()
    for number, file in enumerate(sorted(folder.glob("imagenet/train/*/*.jpg"))[:4]):
        with tarfile.open(folder / f"shards/train-{number:04}.tar", "w") as shard:
            shard.add(file, arcname=f"{number:08}.jpg")


def commands(folder: Path, code: str, **variables: str) -> list[list[str]]:
    """Return the commands that a block of shell code calls, as the shell understands it."""
    programs, record = folder / "programs", folder / "called"
    if not programs.exists():
        programs.mkdir()
        for name in PROGRAMS:
            line = f"printf '%s\\037' {name} \"$@\" >> '{record}'; echo >> '{record}'"
            (programs / name).write_text(f"#!/bin/sh\n{line}\n")
            (programs / name).chmod(stat.S_IRWXU)
    record.unlink(missing_ok=True)
    where = {"PATH": f"{programs}:{os.defpath}", **variables}
    subprocess.run(["bash", "-euo", "pipefail", "-c", code], env=where, cwd=folder, check=True)
    return [line.split(SEPARATOR)[:-1] for line in record.read_text().split("\n")[:-1]]
