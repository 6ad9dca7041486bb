"""Images as files in class folders: `root/<class>/<image>`, as torchvision's ImageFolder has it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from repair_kernels.errors import CalibrationDataError
from repair_kernels.images.preprocessing import SUFFIXES


class ImageFolder:
    """The images below a folder, in the order of their paths.

    Classes are numbered in the order of the folders directly below `root`. Images that lie in
    `root` itself are taken as well; then there are no class numbers.

    Args:
        root: folder of class folders
    Raises:
        CalibrationDataError: there is no such folder, or no image in it
    """

    def __init__(self, root: Path):
        if not root.is_dir():
            raise CalibrationDataError(
                f"expected a folder of images; {root} is none; give ImageNet's `train` or `val`"
            )
        self._root = root
        found = sorted(
            Path(folder, file).relative_to(root).parts
            for folder, _, files in os.walk(root, followlinks=True)
            for file in files
            if os.path.splitext(file)[1].lower() in SUFFIXES
        )
        if not found:
            raise CalibrationDataError(
                f"expected images at {root}/<class>/<image> ({', '.join(SUFFIXES)}); found none; "
                "give the folder that holds the class folders, or one of .tar files"
            )
        # Bytes in one array: millions of paths as Python's strings would be copied to each worker.
        self._paths = np.array([os.fsencode(os.path.join(*parts)) for parts in found])
        folders = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
        self._classes = {os.fsencode(name): number for number, name in enumerate(folders)}
        self.has_labels = all(len(parts) > 1 for parts in found)
        self.description = f"the folder {root}"

    def __len__(self) -> int:
        return len(self._paths)

    def name(self, position: int) -> str:
        """Return the path of an image."""
        return str(self._path(position))

    def key(self, position: int) -> bytes:
        """Return the path below the root, and the file's size."""
        return self._paths[position] + b" %d" % self._path(position).stat().st_size

    def read(self, position: int) -> bytes:
        """Return the image's file."""
        return self._path(position).read_bytes()

    def label(self, position: int) -> int | None:
        """Return the number of the folder that an image lies in."""
        if not self.has_labels:
            return None
        return self._classes[self._paths[position].split(os.sep.encode())[0]]

    def _path(self, position: int) -> Path:
        return self._root / os.fsdecode(self._paths[position])
