"""What happens to an image between its file and a network, said in full.

    imagenet:  shorter side to 256, centre of 224 x 224, (pixels / 255 - mean) / std
    none:      pixels / 255

as torchvision's published weights expect it (those of 2021 and later say other sizes). Rounding is
torchvision's, too: the longer side is cut to a whole number, the centre's corner rounded to one.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from repair_kernels.errors import ArgumentError, CalibrationDataError, MissingExtraError

if TYPE_CHECKING:
    from PIL.Image import Image

# Formats that are decoded by Pillow's own code, and never by another program (as EPS would be).
FORMATS = ("BMP", "JPEG", "PNG", "PPM", "WEBP")
SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".webp")


@dataclass(frozen=True)
class Preprocessing:
    """How images are sized and scaled.

    Args:
        name: what it is called
        resize: length of the shorter side, bilinear with antialiasing; None: as it is
        crop: side of the square that is cut from the centre; None: the whole image
        mean, std: of red, green and blue, for pixels in [0, 1]

    Example:
        >>> IMAGENET.of_size(112).resize, IMAGENET.of_size(112).crop
        (128, 112)
    """

    name: str
    resize: int | None = None
    crop: int | None = None
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __str__(self) -> str:
        steps = []
        if self.resize is not None:
            steps.append(f"shorter side {self.resize} (bilinear, antialiased)")
        if self.crop is not None:
            steps.append(f"centre {self.crop} x {self.crop}")
        steps.append("pixels in [0, 1]")
        if (self.mean, self.std) != (NONE.mean, NONE.std):
            steps.append(f"less mean {self.mean}, by std {self.std}")
        return f"{self.name}: {', '.join(steps)}"

    def of_size(self, size: int) -> Preprocessing:
        """Return the same for networks of another input size: both lengths in proportion.

        Raises:
            ArgumentError: images are not brought to any size here
        """
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ArgumentError(
                f"an image size must be a whole number of at least 1; got {size!r}; give the side "
                "of the network's input in pixels"
            )
        if self.crop is None or self.resize is None:
            raise ArgumentError(
                f"preprocessing {self.name!r} leaves images as large as they are; got image size "
                f"{size}; leave it out, or choose 'imagenet'"
            )
        return replace(self, resize=round(self.resize * size / self.crop), crop=size)

    def pixels(self, contents: bytes, name: str) -> UInt8[Tensor, "3 h w"]:
        """Decode a file's contents, resize and crop.

        Args:
            contents: a whole image file, of one of `FORMATS`
            name: what messages call it
        Raises:
            CalibrationDataError: it is broken, cut short, or no image
            MissingExtraError: Pillow is not installed
        """
        image = self._sized(_decoded(contents, name))
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()

    def normalised(self, pixels: UInt8[Tensor, "n 3 h w"]) -> Float32[Tensor, "n 3 h w"]:
        """Scale pixels to what a network reads, on the device where they are."""
        images = pixels.to(torch.float32).div_(255)
        if (self.mean, self.std) == (NONE.mean, NONE.std):
            return images
        mean, std = (
            torch.tensor(values, device=images.device).view(3, 1, 1)
            for values in (self.mean, self.std)
        )
        return images.sub_(mean).div_(std)

    def _sized(self, image: Image) -> Image:
        from PIL.Image import Resampling

        if self.resize is not None:
            short = min(image.size)
            width, height = (
                self.resize if side == short else int(self.resize * side / short)
                for side in image.size
            )
            image = image.resize((width, height), Resampling.BILINEAR)
        if self.crop is not None:
            left, top = (round((side - self.crop) / 2) for side in image.size)
            image = image.crop((left, top, left + self.crop, top + self.crop))
        return image


IMAGENET = Preprocessing("imagenet", 256, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
NONE = Preprocessing("none")
NAMED: Mapping[str, Preprocessing] = {"imagenet": IMAGENET, "none": NONE}


def named_preprocessing(
    preprocessing: str | Preprocessing, image_size: int | None = None
) -> Preprocessing:
    """Return a preprocessing by its name, for images of some size.

    Raises:
        ArgumentError: there is none of this name, or it has no size
    """
    if isinstance(preprocessing, str):
        if preprocessing not in NAMED:
            raise ArgumentError(
                f"`preprocessing` must be one of {', '.join(map(repr, NAMED))}, or a "
                f"`Preprocessing`; got {preprocessing!r}"
            )
        preprocessing = NAMED[preprocessing]
    return preprocessing if image_size is None else preprocessing.of_size(image_size)


def _decoded(contents: bytes, name: str) -> Image:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError(
            "images are decoded with Pillow, which is not installed; install it with "
            '`pip install "repair-kernels[images]"`'
        ) from error
    try:
        with Image.open(io.BytesIO(contents), formats=FORMATS) as file:
            return file.convert("RGB")
    except Exception as error:  # a broken or hostile file may fail anywhere in its decoder
        cause = "no format that is known" if _is_unknown(error) else str(error)
        raise CalibrationDataError(
            f"expected a whole image of one of the formats {', '.join(FORMATS)} in {name}; it "
            f"cannot be decoded: {cause or type(error).__name__}; replace the file or remove it"
        ) from error


def _is_unknown(error: Exception) -> bool:
    return type(error).__name__ == "UnidentifiedImageError"
