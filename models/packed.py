"""Reader of the packed image sets: each part is an xz file of prediction residuals.

    part = xz( uint32 c, n, h, w | residuals[c, n, h, w] ),    pixel = prediction + residual

The prediction is left + above - corner, held between left and above (the median edge detector).
Colour parts hold green, red - green and blue - green. Decoding costs seconds, so decoded parts are
kept as `.npy` files in `$REPAIR_CACHE`, else in `~/.cache/repair_kernels`.
"""

import lzma
import os
import tempfile
from pathlib import Path

import numpy as np


def has_packed(root: Path, name: str) -> bool:
    """Tell whether the folder `root` holds the packed set `name`, such as "fashion_train"."""
    return (root / "labels.npz").is_file() and bool(_part_paths(root, name))


def read_packed(root: Path, name: str, n: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Read the first `n` images (all by default) and labels of a packed set.

    Args:
        root: folder with `<name>_<part>.mz.xz` or `<name>.npy.xz`, and `labels.npz`.
        name: set and split, such as "cifar10_train".
        n: number of images; only the parts that hold them are decoded.

    Returns:
        Images uint8 (n, h, w) or (n, h, w, 3), labels int64 (n,).
    """
    with np.load(root / "labels.npz", allow_pickle=False) as stored:
        labels = stored[name].astype(np.int64)
    parts: list[np.ndarray] = []
    for path in _part_paths(root, name):
        if n is not None and sum(map(len, parts)) >= n:
            break
        parts.append(_cached_part(path))
    images = np.concatenate(parts)[:n]
    return images, labels[: len(images)]


def cache_folder() -> Path:
    """Return the folder of decoded parts: `$REPAIR_CACHE`, else `~/.cache/repair_kernels`."""
    return Path(os.environ.get("REPAIR_CACHE") or Path.home() / ".cache" / "repair_kernels")


def _part_paths(root: Path, name: str) -> list[Path]:
    """Return the files of a set, in order; the parts' numbers have no leading zeros."""
    parts = list(root.glob(f"{name}_*.mz.xz"))
    if parts:
        return sorted(parts, key=lambda path: int(path.name.split("_")[-1].split(".")[0]))
    return [path for path in [root / f"{name}.npy.xz"] if path.is_file()]


def _cached_part(path: Path) -> np.ndarray:
    """Return one decoded part, from the cache if it is there, and put it there if not."""
    stamp = path.stat()
    cached = cache_folder() / f"{path.name.split('.')[0]}-{stamp.st_size}-{stamp.st_mtime_ns}.npy"
    if cached.is_file():
        return np.load(cached, allow_pickle=False)
    if path.name.endswith(".npy.xz"):
        with lzma.open(path) as file:
            images = np.lib.format.read_array(file, allow_pickle=False)
    else:
        images = decode_part(lzma.decompress(path.read_bytes()))
    _write_atomically(cached, images)
    return images


def _write_atomically(path: Path, images: np.ndarray) -> None:
    """Save an array so that a reader sees the whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
        try:
            np.save(file, images, allow_pickle=False)
            file.close()
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def decode_part(data: bytes) -> np.ndarray:
    """Decode the bytes inside one `.mz.xz` file into uint8 (n, h, w) or (n, h, w, 3)."""
    c, n, h, w = (int(size) for size in np.frombuffer(data, "<u4", 4))
    code = np.frombuffer(data, np.uint8, offset=16).reshape(c, n, h, w)
    signed = (code >> 1) ^ -(code & 1)  # 0, 1, 2, 3, ... stand for 0, -1, 1, -2, ... mod 256
    residual = np.ascontiguousarray(signed.transpose(2, 3, 0, 1)).astype(np.int16)  # [h, w, c, n]
    pixels = np.zeros_like(residual)
    for i in range(h):
        for j in range(w):
            above = pixels[i - 1, j] if i else None
            left = pixels[i, j - 1] if j else above if i else np.zeros_like(pixels[0, 0])
            above = left if above is None else above
            corner = pixels[i - 1, j - 1] if i and j else above
            low, high = np.minimum(left, above), np.maximum(left, above)
            value = np.clip(left + above - corner, low, high) + residual[i, j]
            pixels[i, j, 0] = value[0] & 255
            if c == 3:
                # A colour difference is stored mod 256 of the colour itself.
                pixels[i, j, 1:] = ((value[1:] + pixels[i, j, 0]) & 255) - pixels[i, j, 0]
    if c == 3:
        green, red, blue = pixels[:, :, 0], pixels[:, :, 1], pixels[:, :, 2]
        pixels = np.stack([red + green, green, blue + green], axis=2)
    images = np.ascontiguousarray(pixels.transpose(3, 0, 1, 2).astype(np.uint8))
    return images if c == 3 else images[..., 0]
