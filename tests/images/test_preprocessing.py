"""What a network is given: sizes, the crop, the scale of pixels."""

import io
import sys

import pytest
import torch
from PIL import Image

from repair_kernels.errors import ArgumentError, CalibrationDataError, MissingExtraError
from repair_kernels.images import IMAGENET, NONE, Preprocessing
from repair_kernels.images.preprocessing import named_preprocessing


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def prepared(image: Image.Image, preprocessing: Preprocessing = IMAGENET) -> torch.Tensor:
    return preprocessing.normalised(preprocessing.pixels(encoded(image), "x")[None])[0]


def test_the_centre_is_cropped_from_the_shorter_side_resized_to_256() -> None:
    image = Image.new("RGB", (512, 256))
    image.paste((255, 255, 255), (512 // 2 - 112, 16, 512 // 2 + 112, 240))
    white = (1 - torch.tensor(IMAGENET.mean)) / torch.tensor(IMAGENET.std)
    torch.testing.assert_close(prepared(image), white[:, None, None].expand(3, 224, 224))


def test_a_plain_colour_stays_plain() -> None:
    image = Image.new("RGB", (300, 500), (17, 34, 51))
    colour = torch.tensor([17, 34, 51]) / 255
    expected = (colour - torch.tensor(IMAGENET.mean)) / torch.tensor(IMAGENET.std)
    torch.testing.assert_close(prepared(image).mean((1, 2)), expected)


def test_resizing_down_averages() -> None:
    stripes = Image.new("L", (512, 512))
    for x in range(0, 512, 2):
        stripes.paste(255, (x, 0, x + 1, 512))
    grey = Preprocessing("halved", 256, 224).pixels(encoded(stripes), "x").float() / 255
    assert float((grey - 0.5).abs().max()) < 0.01


def test_a_panorama_keeps_its_crop() -> None:
    assert prepared(Image.new("RGB", (900, 7))).shape == (3, 224, 224)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16"])
def test_every_mode_becomes_red_green_and_blue(mode: str) -> None:
    assert prepared(Image.new(mode, (5, 6)), NONE).shape == (3, 6, 5)


def test_none_leaves_size_and_scale() -> None:
    image = Image.new("RGB", (5, 6), (0, 51, 255))
    torch.testing.assert_close(prepared(image, NONE)[:, 0, 0], torch.tensor([0, 0.2, 1]))


def test_other_sizes_are_in_proportion() -> None:
    small = named_preprocessing("imagenet", 160)
    assert (small.resize, small.crop) == (183, 160)
    assert named_preprocessing("imagenet", 224) == named_preprocessing("imagenet") == IMAGENET


def test_it_says_in_full_what_it_does() -> None:
    assert str(IMAGENET) == (
        "imagenet: shorter side 256 (bilinear, antialiased), centre 224 x 224, pixels in [0, 1], "
        "less mean (0.485, 0.456, 0.406), by std (0.229, 0.224, 0.225)"
    )
    assert str(NONE) == "none: pixels in [0, 1]"


def test_what_cannot_be_asked_for_is_refused() -> None:
    with pytest.raises(ArgumentError, match="must be one of 'imagenet', 'none', .*got 'cifar'"):
        named_preprocessing("cifar")
    with pytest.raises(ArgumentError, match="'none' leaves images as large .*got image size 32"):
        named_preprocessing("none", 32)
    with pytest.raises(ArgumentError, match="whole number of at least 1; got 0"):
        named_preprocessing("imagenet", 0)


def test_no_program_is_started_to_decode() -> None:
    postscript = encoded(Image.new("RGB", (4, 4)), "EPS")
    with pytest.raises(CalibrationDataError, match="PPM, WEBP in x; .*no format that is known"):
        NONE.pixels(postscript, "x")


def test_an_image_of_absurd_size_is_refused() -> None:
    header = b"P6 60000 60000 255\n"
    with pytest.raises(CalibrationDataError, match="cannot be decoded: Image size .* exceeds"):
        NONE.pixels(header, "x")


def test_without_pillow_the_package_to_install_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtraError, match=r'pip install "repair-kernels\[images\]"'):
        NONE.pixels(b"", "x")
