"""Small data sets on disk: a folder of classes, and shards of the same images."""

from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image


def picture(number: int, width: int = 40, height: int = 36) -> Image.Image:
    """A smooth image (JPEG keeps it), another one for every number."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [x * 3 + 11 * number, y * 4 + 5 * number, (x + y) * 2]
    return Image.fromarray(np.stack(planes, 2).clip(0, 255).astype(np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Nine images of three classes, JPEG and PNG, of several sizes, and a file that is none."""
    root = tmp_path / "folder"
    for number in range(9):
        path = root / f"class{number % 3}" / f"{number}.{'png' if number % 2 else 'JPEG'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(number, width=40 + number).save(path)
    (root / "class0" / "readme.txt").write_text("no image")
    return root


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """A folder of three shards with 4, 4 and 1 images, of class 0, 1, 2, 0, ..."""
    root = tmp_path / "shards"
    root.mkdir()
    with webdataset.ShardWriter(str(root / "part-%02d.tar"), maxcount=4, verbose=0) as writer:
        for number in range(9):
            sample = {"__key__": f"deep/{number:03d}", "cls": number % 3}
            writer.write({**sample, "jpg": picture(number), "json": {"n": number}})
    return root
