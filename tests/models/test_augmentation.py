"""Random changes: what they may do, what they may not, and that only their generator decides."""

import pytest
import torch

from models.augmentation import alternate_flip, cutout, flip, translate


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


IMAGES = torch.arange(1, 1 + 64 * 2 * 6 * 5, dtype=torch.float32).view(64, 2, 6, 5)
FILL = torch.tensor([-1.0, -2.0])


def test_flip_mirrors_some_images_and_leaves_the_others() -> None:
    flipped = flip(IMAGES, generator())
    same = (flipped == IMAGES).flatten(1).all(1)
    mirrored = (flipped == IMAGES.flip(3)).flatten(1).all(1)
    assert (same ^ mirrored).all()
    assert 16 < int(mirrored.sum()) < 48


@pytest.mark.parametrize("seed", [0, 7])
def test_alternate_flip_mirrors_each_image_every_second_time(seed: int) -> None:
    indices = torch.arange(len(IMAGES))
    shown = [alternate_flip(IMAGES, indices, seed, epoch) for epoch in range(4)]
    assert torch.equal(shown[0], shown[2])
    assert torch.equal(shown[1], shown[3])
    assert torch.equal(shown[0].flip(3), shown[1])
    mirrored = (shown[0] == IMAGES.flip(3)).flatten(1).all(1)
    assert 16 < int(mirrored.sum()) < 48


def test_alternate_flip_goes_by_the_index_of_an_image_and_by_the_seed() -> None:
    indices = torch.arange(len(IMAGES))
    whole, other = (alternate_flip(IMAGES, indices, seed, 0) for seed in (0, 1))
    few = torch.tensor([5, 3, 60])
    assert torch.equal(alternate_flip(IMAGES[few], few, 0, 0), whole[few])
    assert not torch.equal(whole, other)


def test_translate_shifts_each_image_as_a_whole_and_fills_the_rest() -> None:
    shifted = translate(IMAGES, 2, generator(), FILL)
    seen = set()
    for before, after in zip(IMAGES, shifted, strict=True):
        padded = FILL.view(2, 1, 1).repeat(1, 10, 9)
        padded[:, 2:8, 2:7] = before
        places = [
            (top, left)
            for top in range(5)
            for left in range(5)
            if torch.equal(padded[:, top : top + 6, left : left + 5], after)
        ]
        assert len(places) == 1
        seen.add(places[0])
    assert len(seen) > 15


def test_cutout_paints_one_square_of_the_size() -> None:
    painted = cutout(IMAGES, 3, generator(), FILL)
    changed = painted != IMAGES
    assert (changed.sum(dim=(1, 2, 3)) == 2 * 9).all()
    assert (painted[:, 1][changed[:, 1]] == -2).all()
    assert (changed.any(1).any(2).sum(1) == 3).all()


@pytest.mark.parametrize(
    "change",
    [
        flip,
        lambda x, g: translate(x, 2, g, FILL),
        lambda x, g: cutout(x, 3, g, FILL),
    ],
)
def test_changes_are_the_generators_alone(change) -> None:
    before = IMAGES.clone()
    first = change(IMAGES, generator())
    torch.rand(5)
    assert torch.equal(change(IMAGES, generator()), first)
    assert torch.equal(IMAGES, before)
    assert change(IMAGES.byte(), generator()).dtype == torch.uint8
