"""Reader of what torchvision's datasets leave on disk: CIFAR pickles, IDX files, SVHN's matrices.

CIFAR's files are pickles, which can run any code when loaded. They are read here by an unpickler
that knows only the numpy arrays that the official files hold, and refuses everything else.
"""

import gzip
import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Folder:
    """Where torchvision puts a set below its root, and where the set comes from."""

    folder: str
    torchvision_class: str
    homepage: str


FOLDERS = {
    "cifar10": Folder(
        "cifar-10-batches-py", "CIFAR10", "https://www.cs.toronto.edu/~kriz/cifar.html"
    ),
    "cifar100": Folder(
        "cifar-100-python", "CIFAR100", "https://www.cs.toronto.edu/~kriz/cifar.html"
    ),
    "fashion": Folder(
        "FashionMNIST/raw", "FashionMNIST", "https://github.com/zalandoresearch/fashion-mnist"
    ),
    "mnist": Folder("MNIST/raw", "MNIST", "https://yann.lecun.com/exdb/mnist"),
    "svhn": Folder(".", "SVHN", "http://ufldl.stanford.edu/housenumbers"),
}


def read_folder(root: Path, name: str, split: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Read a set from torchvision's folder below `root`, or return None if it is not there.

    Args:
        root: what torchvision calls `root`.
        name: "cifar10", "cifar100", "fashion", "mnist" or "svhn".
        split: "train" or "test".

    Returns:
        Images uint8 (n, h, w) or (n, h, w, 3) and labels (n,); None when a file is absent.

    Raises:
        ValueError: when a file is there but is not what it should be.
    """
    folder = root / FOLDERS[name].folder
    if name.startswith("cifar"):
        return _read_cifar(folder, name, split)
    if name == "svhn":
        return _read_svhn(folder / f"{split}_32x32.mat")
    return _read_mnist(folder, split)


def _read_cifar(folder: Path, name: str, split: str) -> tuple[np.ndarray, np.ndarray] | None:
    if name == "cifar100":
        files, label_key = [split], b"fine_labels"
    elif split == "train":
        files, label_key = [f"data_batch_{i}" for i in range(1, 6)], b"labels"
    else:
        files, label_key = ["test_batch"], b"labels"
    if not all((folder / file).is_file() for file in files):
        return None
    images, labels = [], []
    for file in files:
        batch = read_cifar_pickle(folder / file)
        data = batch.get(b"data")
        if not isinstance(data, np.ndarray) or label_key not in batch:
            raise ValueError(f"{folder / file} has no `data` array or no {label_key!r}")
        images.append(data.astype(np.uint8).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        labels.append(np.asarray(batch[label_key], dtype=np.int64))
    return np.concatenate(images), np.concatenate(labels)


class _ArrayUnpickler(pickle.Unpickler):
    """Build lists, dicts, strings, numbers and numpy arrays; refuse every other class."""

    # Where numpy keeps it differs between versions, so it is asked of an array itself.
    _reconstruct = staticmethod(np.empty(0).__reduce__()[0])

    def find_class(self, module: str, name: str) -> object:
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return self._reconstruct
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):
            return _latin1_bytes
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed in an image file")


def _latin1_bytes(text: str, encoding: str = "latin1") -> bytes:
    """Return the bytes that old pickles write as text."""
    return text.encode(encoding)


def read_cifar_pickle(path: Path) -> dict:
    """Read one CIFAR batch file without running any code that it may hold.

    Raises:
        ValueError: when the file is broken, or asks for anything but numpy arrays.
    """
    with open(path, "rb") as file:
        try:
            batch = _ArrayUnpickler(file, encoding="bytes").load()
        except Exception as error:
            raise ValueError(f"{path} is not a CIFAR batch file: {error}") from error
    if not isinstance(batch, dict):
        raise ValueError(f"{path} is not a CIFAR batch file: it holds a {type(batch).__name__}")
    return {key.encode() if isinstance(key, str) else key: batch[key] for key in batch}


def _read_mnist(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray] | None:
    stem = "train" if split == "train" else "t10k"
    images = _existing(folder / f"{stem}-images-idx3-ubyte")
    labels = _existing(folder / f"{stem}-labels-idx1-ubyte")
    if images is None or labels is None:
        return None
    return read_idx(images), read_idx(labels)


def _read_svhn(path: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """Read cropped digits: `X` (32, 32, 3, n), `y` (n, 1), where 10 stands for the digit 0."""
    if not path.is_file():
        return None
    import scipy.io  # Takes longer to import than all the rest.

    try:
        held = scipy.io.loadmat(path)
        images, labels = held["X"], held["y"].reshape(-1)
    except Exception as error:
        raise ValueError(f"{path} is not an SVHN file with `X` and `y`: {error}") from error
    return images.transpose(3, 0, 1, 2).astype(np.uint8), labels.astype(np.int64) % 10


def _existing(path: Path) -> Path | None:
    """Return the file, plain or compressed, or None."""
    for candidate in (path, path.with_name(path.name + ".gz")):
        if candidate.is_file():
            return candidate
    return None


def read_idx(path: Path) -> np.ndarray:
    """Read an IDX file of bytes: two zeros, type 8, the number of axes, big-endian sizes, bytes.

    Raises:
        ValueError: when the header or the length is wrong.
    """
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if len(data) < 4 or data[:3] != b"\0\0\x08":
        raise ValueError(f"{path} is not an IDX file of unsigned bytes")
    axes = data[3]
    shape = tuple(int(size) for size in np.frombuffer(data, ">u4", axes, offset=4))
    values = np.frombuffer(data, np.uint8, offset=4 + 4 * axes)
    if values.size != int(np.prod(shape)):
        raise ValueError(f"{path} should hold {shape} bytes, but holds {values.size}")
    return values.reshape(shape).copy()
