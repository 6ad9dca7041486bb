"""Choose the embedded part of FashionMNIST: `python -m models.fashion_subset`.

Of each official file, the first 200 images of each of the ten classes, in the file's order.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.datasets import EMBEDDED_FASHION, SPLITS, load

PER_CLASS = 200


def first_of_each_class(labels: Tensor, per_class: int = PER_CLASS) -> Tensor:
    """Return the indices of the first `per_class` items of every class, ascending.

    Raises:
        ValueError: when a class has fewer.

    Example:
        >>> first_of_each_class(torch.tensor([1, 1, 0, 1, 0, 0]), 2).tolist()
        [0, 1, 2, 4]
    """
    chosen = []
    for label in labels.unique():
        indices = torch.nonzero(labels == label).flatten()
        if len(indices) < per_class:
            raise ValueError(f"class {label} has {len(indices)} items, fewer than {per_class}")
        chosen.append(indices[:per_class])
    return torch.cat(chosen).sort().values


def main(arguments: list[str] | None = None) -> int:
    """Write the file from the whole set; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m models.fashion_subset", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of the image sets (else $REPAIR_DATA)")
    parser.add_argument("--out", type=Path, default=EMBEDDED_FASHION, help="the .npz to write")
    options = parser.parse_args(arguments)
    arrays = {}
    for split in SPLITS:
        images, labels = load("fashion", split, root=options.data, embedded=False)
        indices = first_of_each_class(labels)
        arrays[f"{split}_images"] = images[indices].squeeze(1).numpy()
        arrays[f"{split}_labels"] = labels[indices].numpy().astype(np.uint8)
        arrays[f"{split}_indices"] = indices.numpy().astype(np.int32)
    np.savez_compressed(options.out, **arrays)
    print(f"{options.out}: {options.out.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
