"""A pair of small networks with their data on disk, as command lines name them."""

from pathlib import Path

import torch
from torch import nn

from models.mlp import MLP
from repair_kernels.checkpoints import save_state_dict

BUILD = ["--model", "models.mlp:MLP"]
for argument in ("depth=2", "width=8", "in_features=12", "classes=3"):
    BUILD += ["--model-arg", argument]


def mlp(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return MLP(2, 8, in_features=12, classes=3)


def written_pair(folder: Path) -> list[str]:
    """Write two checkpoints and labelled data; return the options that name them."""
    for name, seed in (("a", 0), ("b", 1)):
        save_state_dict(mlp(seed).state_dict(), folder / f"{name}.safetensors")
    generator = torch.Generator().manual_seed(2)
    data = {
        "inputs": torch.randn(60, 12, generator=generator),
        "labels": torch.randint(3, (60,), generator=generator),
    }
    torch.save(data, folder / "data.pt")
    options = ["--a", str(folder / "a.safetensors"), "--b", str(folder / "b.safetensors")]
    return [*BUILD, *options, "--data", str(folder / "data.pt"), "--batch-size", "25"]
