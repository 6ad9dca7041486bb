"""The embedded networks: pairs trained by one recipe from two seeds; `README.md` is their card.

model_a, model_b = load_pair("fashion_resnet20")
"""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from models.recipes import RECIPES

FOLDER = Path(__file__).resolve().parent
PAIRS = ("fashion_resnet20", "fashion_mlp10")
SEEDS = (0, 1)


def checkpoint_path(name: str, seed: int) -> Path:
    """Return the file of one embedded network.

    Raises:
        ValueError: when there is no such network.
    """
    if name not in PAIRS or seed not in SEEDS:
        raise ValueError(
            f"the embedded pairs are {PAIRS} with seeds {SEEDS}, got {name!r} with seed {seed}"
        )
    return FOLDER / f"{name}_seed{seed}.safetensors"


def load_pair(name: str) -> tuple[nn.Module, nn.Module]:
    """Load an embedded pair, in evaluation mode, on the CPU.

    Args:
        name: "fashion_resnet20" or "fashion_mlp10"; also the name of their recipe.

    Returns:
        The networks of seeds 0 and 1. The state of the random generators is as before.

    Raises:
        ValueError: when there is no such pair.

    Example:
        >>> a, b = load_pair("fashion_mlp10")
        >>> a(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """
    model_a, model_b = (_load(name, seed) for seed in SEEDS)
    return model_a, model_b


def _load(name: str, seed: int) -> nn.Module:
    state = load_file(checkpoint_path(name, seed))
    with torch.random.fork_rng(devices=[]):
        model = RECIPES[name].build()
    model.load_state_dict(state)
    return model.eval()
