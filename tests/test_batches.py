"""Laws of batches: every form that users have them in gives the same inputs, checked."""

from collections import OrderedDict, namedtuple
from collections.abc import Iterable
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset

from repair_kernels.batches import ONE_CLASS, Batches, in_pieces, input_of, piece_size
from repair_kernels.errors import CalibrationDataError

Labelled = namedtuple("Labelled", ["image", "label"])
IMAGES = torch.arange(24.0).reshape(8, 3)
LABELS = torch.arange(8)
pytestmark = pytest.mark.usefixtures("unchecked_annotations")


def split(images: Tensor, sizes: list[int]) -> list[Tensor]:
    return list(images.split(sizes))


FORMS = {
    "tensors": lambda: split(IMAGES, [3, 3, 2]),
    "tuples": lambda: ((x, torch.zeros(len(x))) for x in split(IMAGES, [3, 3, 2])),
    "lists": lambda: [[x] for x in split(IMAGES, [3, 3, 2])],
    "named tuples": lambda: [Labelled(x, 0) for x in split(IMAGES, [3, 3, 2])],
    "dicts": lambda: [OrderedDict(image=x, label=0) for x in split(IMAGES, [3, 3, 2])],
    "an iterator": lambda: iter(split(IMAGES, [3, 3, 2])),
    "a tuple": lambda: tuple(split(IMAGES, [3, 3, 2])),
    "a DataLoader": lambda: DataLoader(TensorDataset(IMAGES, LABELS), batch_size=3),
}


def joined(batches: Iterable[Tensor]) -> Tensor:
    return torch.cat(list(batches))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_batches_gives_the_same_inputs(form):
    assert torch.equal(joined(Batches(FORMS[form]())), IMAGES)


@given(st.integers(1, 12), st.lists(st.integers(0, 8), max_size=4))
def test_n_samples_takes_the_first_images_wherever_batches_end(n, cuts):
    ends = [0, *sorted(cuts), 8]
    batches = [IMAGES[start:stop] for start, stop in pairwise(ends)]
    taken = joined(Batches(batches, n_samples=n))
    assert torch.equal(taken, IMAGES[:n])


def test_no_batch_is_asked_for_beyond_n_samples():
    def batches():
        yield IMAGES[:5]
        raise AssertionError("one batch too many")

    assert len(joined(Batches(batches(), n_samples=5))) == 5


def test_empty_batches_are_left_out():
    batches = list(Batches([IMAGES[:0], IMAGES[:3], IMAGES[:0], IMAGES[3:]]))
    assert [len(batch) for batch in batches] == [3, 5]


def test_the_first_batch_is_seen_and_not_lost():
    batches = Batches(iter(split(IMAGES, [3, 5])))
    assert torch.equal(batches.first, IMAGES[:3])
    assert torch.equal(joined(batches), IMAGES)


def test_what_can_be_read_again_is_read_again():
    batches = Batches(split(IMAGES, [3, 5]), n_samples=4)
    assert batches.is_repeatable
    assert torch.equal(joined(batches), joined(batches))


def test_a_spent_iterator_is_refused():
    batches = Batches(iter(split(IMAGES, [3, 5])))
    assert not batches.is_repeatable
    joined(batches)
    with pytest.raises(CalibrationDataError, match="read more than once .*pass a list"):
        joined(batches)


def test_inputs_come_without_a_gradient():
    (batch,) = Batches([IMAGES.clone().requires_grad_()])
    assert not batch.requires_grad


def test_inputs_are_moved_to_the_device():
    (batch,) = Batches([IMAGES], device=torch.device("meta"))
    assert batch.device.type == "meta"


def test_the_length_is_the_sources_or_zero():
    assert len(Batches(split(IMAGES, [3, 5]))) == 2
    assert len(Batches(iter([IMAGES]))) == 0


@pytest.mark.parametrize("empty", [[], (), iter([]), DataLoader([], batch_size=2)])
def test_no_batches_are_refused(empty):
    with pytest.raises(CalibrationDataError, match="at least one batch; it is empty"):
        Batches(empty)


def test_batches_without_a_single_image_are_refused():
    with pytest.raises(CalibrationDataError, match="all batches are empty"):
        list(Batches([IMAGES[:0], IMAGES[:0]]))


def test_a_tensor_in_place_of_batches_is_refused():
    with pytest.raises(CalibrationDataError, match="got a Tensor; pass a DataLoader, or a list"):
        Batches(IMAGES)


def test_what_is_no_iterable_is_refused():
    with pytest.raises(CalibrationDataError, match="must be an iterable of batches; got a int"):
        Batches(3)


@pytest.mark.parametrize("n", [0, -1, True, 2.0, "8"])
def test_n_samples_that_is_no_positive_number_is_refused(n):
    with pytest.raises(CalibrationDataError, match=f"`n_samples` must be .*got {n!r}"):
        Batches([IMAGES], n_samples=n)


@pytest.mark.parametrize(
    ("batch", "named"),
    [
        ("text", "batch 7 is a str whose first item is str"),
        ((), "batch 7 is a tuple whose first item is NoneType"),
        ({}, "batch 7 is a dict whose first item is NoneType"),
        ([[IMAGES]], "batch 7 is a list whose first item is list"),
        (torch.tensor(1.0), "batch 7 is a Tensor whose first item is Tensor"),
        (None, "batch 7 is a NoneType"),
    ],
)
def test_a_batch_without_an_input_is_refused_by_number_and_type(batch, named):
    with pytest.raises(CalibrationDataError, match=named):
        input_of(batch, 7)


def test_a_batch_of_another_image_size_is_refused_by_number_and_shape():
    batches = Batches([IMAGES, IMAGES, torch.zeros(2, 4)])
    with pytest.raises(CalibrationDataError, match=r"\(n, 3\) as the first; batch 2 has \(2, 4\)"):
        list(batches)


# Pieces


@given(st.integers(1, 60), st.integers(1, 12), st.lists(st.integers(0, 60), max_size=6))
def test_pieces_do_not_depend_on_where_batches_end(n, size, cuts):
    images = torch.arange(3.0 * n).reshape(n, 3)
    ends = [0, *sorted(min(cut, n) for cut in cuts), n]
    batches = [images[start:stop] for start, stop in pairwise(ends)]
    pieces = list(in_pieces(batches, size))
    assert torch.equal(torch.cat(pieces), images)
    assert [len(p) for p in pieces] == [len(p) for p in in_pieces([images], size)]
    assert all(len(piece) == size for piece in pieces[:-1])
    # None is small, unless there are no more images.
    assert len(pieces[-1]) < 1.5 * size + 1
    assert len(pieces) == 1 or len(pieces[-1]) >= size / 2


class Copied(TorchDispatchMode):
    """Counts the numbers that are written to new memory."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten.clone.default, torch.ops.aten.cat.default):
            self.numbers += out.numel()
        return out


@pytest.mark.parametrize("batch", [1, 7, 29, 1000])
def test_pieces_copy_each_image_a_few_times_however_large_the_batches(batch):
    images = torch.zeros(1000, 3)
    with Copied() as copied:
        pieces = list(in_pieces(images.split(batch), 10))
    assert len(pieces) == 100
    assert copied.numbers <= 4 * images.numel()


def test_a_piece_keeps_no_other_image_alive():
    pieces = list(in_pieces([torch.zeros(95, 3)], 10))
    assert [p.untyped_storage().nbytes() // 12 for p in pieces] == [len(p) for p in pieces]


def test_a_piece_has_500_images_or_as_many_as_64_mib_hold():
    assert piece_size(torch.zeros(1, 3, 32, 32)) == 500
    assert piece_size(torch.empty(0, 3, 224, 224)) == 2**26 // (3 * 224 * 224 * 4)
    assert piece_size(torch.empty(1, 1, device="meta").expand(1, 2**30)) == 1


# Labels


def test_class_numbers_come_with_their_images():
    batches = Batches([(IMAGES[:5], LABELS[:5]), [IMAGES[5:], LABELS[5:]]], n_samples=7)
    found = list(batches.labelled())
    assert [len(x) for x, _ in found] == [5, 2]
    assert torch.equal(torch.cat([y for _, y in found]), LABELS[:7])


@pytest.mark.parametrize(
    "second",
    [LABELS.float(), LABELS[:, None], LABELS[:3], LABELS > 2, "words", None, list(range(8))],
)
def test_what_is_not_one_integer_per_image_is_no_label(second):
    assert [y for _, y in Batches([(IMAGES, second)]).labelled()] == [None]


def test_labels_of_a_dict_are_its_second_item():
    [(_, labels)] = Batches([{"image": IMAGES, "label": LABELS.int()}]).labelled()
    assert torch.equal(labels, LABELS.int())
    assert [y for _, y in Batches([IMAGES]).labelled()] == [None]


def labelled(*classes: list[int] | None) -> Batches:
    """Return data of one batch for each list of labels; None: a batch of one without labels."""
    data = Batches(
        [
            torch.zeros(1, 2) if held is None else (torch.zeros(len(held), 2), torch.tensor(held))
            for held in classes
        ]
    )
    assert len(list(data)) == len(classes)
    return data


@pytest.mark.parametrize("classes", [([3, 3], [3]), ([0],)])
def test_data_of_one_class_are_doubtful(classes):
    assert labelled(*classes).doubts() == (ONE_CLASS,)


@pytest.mark.parametrize("classes", [([3, 3], [2]), ([3], None), (None, None), ([-1, -1],)])
def test_data_of_several_classes_or_of_unknown_ones_are_not(classes):
    assert labelled(*classes).doubts() == ()


@pytest.mark.parametrize(
    ("other", "doubts"), [([[3]], (ONE_CLASS,)), ([[4]], ()), ([None], ()), ([[]], (ONE_CLASS,))]
)
def test_the_classes_of_all_ranks_count(other, doubts):
    class Both:
        def wait(self) -> None: ...
        def meet(self) -> None: ...
        def exchange(self, topic: str, said: object) -> list[object]:
            return [said, *theirs]

    data = Batches([(torch.zeros(2, 2), torch.tensor([3, 3]))])
    data.share(data.example, is_repeatable=True, ranks=Both())  # type: ignore[arg-type]
    list(data)
    theirs = [span_of(*other)]
    assert data.doubts() == doubts


def span_of(labels: list[int] | None) -> tuple[int, int] | None:
    if labels is None:
        return -1, -1
    return (min(labels), max(labels)) if labels else None
