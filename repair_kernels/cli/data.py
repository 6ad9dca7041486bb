"""Calibration and test data as a command line names them."""

import argparse
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from repair_kernels.batches import input_of, labels_of
from repair_kernels.checkpoints import load_state_dict, sha256_of
from repair_kernels.cli.networks import call, keyword_arguments, resolve
from repair_kernels.cli.processes import Process
from repair_kernels.errors import ArgumentError, CheckpointError
from repair_kernels.images import open_images

GPU_WORKERS = 4
SHOWN = 4


@dataclass(frozen=True)
class Data:
    """Batches, and what they are of.

    Attributes:
        batches: this process's
        n_samples: how many images of them to use at most
        reference: what a merged file says of them
    """

    batches: Iterable[Any]
    n_samples: int | None
    reference: dict[str, Any]


def load_data(options: argparse.Namespace, process: Process | None = None) -> Data:
    """Return what `--data` names: this process's part of it."""
    return _load(options, options.data, options.data_arg, options.samples, process or Process())


def load_test_data(options: argparse.Namespace, process: Process | None = None) -> Iterable[Any]:
    """Return labelled batches of what to measure on: this process's part of it.

    They are of `--eval-data`; else of `--data`, of the images that `--samples` takes. Of either,
    `--eval-samples` says how many at most.
    """
    process = process or Process()
    samples = options.eval_samples
    if options.eval_data:
        data = _load(options, options.eval_data, options.eval_data_arg, samples, process)
    else:
        data = _load(options, options.data, options.data_arg, samples or options.samples, process)
    if data.n_samples is None:
        return data.batches
    return EveryNth(data.batches, process, data.n_samples)


def first_input(options: argparse.Namespace) -> tuple[Tensor, bool]:
    """Return some inputs, from `--data` or of `--input-shape`; and whether they are real.

    Raises:
        ArgumentError: neither is given
    """
    if options.input_shape:
        return torch.zeros(2, *options.input_shape), False
    if not options.data:
        raise ArgumentError(
            "the shape of an input must be known; neither `--data` nor `--input-shape` is given; "
            "give one, such as --input-shape 3,224,224"
        )
    batch = next(iter(load_data(options).batches), None)
    return input_of(batch, 0), True


def _load(
    options: argparse.Namespace,
    reference: str,
    arguments: list[str],
    samples: int | None,
    process: Process,
) -> Data:
    path = Path(reference)
    if ":" in reference and not path.exists():
        return _from_callable(reference, arguments, samples, process)
    if path.is_dir() or path.suffix == ".tar" or "{" in reference:
        return _from_images(options, reference, samples, process)
    if not path.exists():
        raise ArgumentError(
            "data must be a folder of images, tar shards, a file of tensors, or what returns "
            f"batches (package.module:callable); nothing is at {reference}; check the path"
        )
    return _from_file(path, options.batch_size, samples, process)


def _from_images(
    options: argparse.Namespace, reference: str, samples: int | None, process: Process
) -> Data:
    source = open_images(
        reference,
        samples=samples,
        seed=options.seed,
        preprocessing=options.preprocessing,
        image_size=options.image_size,
    )
    own = source.indices(process.rank, process.size, options.batch_size)
    is_gpu = str(options.device).startswith("cuda")
    workers = options.workers if options.workers is not None else GPU_WORKERS * is_gpu
    loader = source.loader(
        options.batch_size,
        start=own.start,
        stop=own.stop,
        workers=workers,
        device=options.device,
        labels=source.has_labels,
    )
    said = {"data": reference, "description": source.description, "seed": options.seed}
    return Data(loader, None, {**said, "fingerprint": source.fingerprint})


def _from_callable(
    reference: str, arguments: list[str], samples: int | None, process: Process
) -> Data:
    given = keyword_arguments(arguments)
    batches = call(resolve(reference), reference, given)
    if not isinstance(batches, Iterable):
        raise ArgumentError(
            f"`--data` must name what returns an iterable of batches; {reference!r} returned a "
            f"{type(batches).__name__}; let it return a DataLoader or a list of batches"
        )
    said = {"data": reference, "arguments": given}
    if process.size == 1:
        return Data(batches, samples, said)
    return Data(EveryNth(batches, process, samples), None, said)


def _from_file(path: Path, batch_size: int, samples: int | None, process: Process) -> Data:
    tensors = _inputs_and_labels(path)
    pieces = [tensor[:samples].split(batch_size) for tensor in tensors]
    batches = list(zip(*pieces, strict=True))[process.rank :: process.size]
    return Data(batches, None, {"data": str(path), "sha256": sha256_of(path)})


def _inputs_and_labels(path: Path) -> list[Tensor]:
    """Return a file's inputs, and its labels if any, in whatever order the file has them.

    Raises:
        CheckpointError: it holds something else, such as the weights of a network
    """
    held = load_state_dict(path)
    numbers = [x for x in held.values() if not (x.is_complex() or x.dtype == torch.bool)]
    inputs = [x for x in numbers if x.dim() > 1]
    labels = [y for y in numbers if y.dim() == 1 and not y.is_floating_point()]
    found = [*inputs, *labels]
    is_data = len(inputs) == 1 and len(labels) < 2 and len(found) == len(held)
    if is_data and len({len(tensor) for tensor in found}) == 1:
        return found
    said = [f"{name} {tuple(x.shape)} {x.dtype}" for name, x in held.items()]
    more = [f"and {len(said) - SHOWN} more"] if len(said) > SHOWN else []
    raise CheckpointError(
        f"{path} must hold inputs (an image in each row), and labels of the same number (whole), "
        f"if any; got {', '.join(said[:SHOWN] + more) or 'nothing'}; save these two tensors alone, "
        "in the order of images"
    )


class EveryNth:
    """The batches that are one process's: the first, the n-th behind it, and so on.

    Args:
        batches: all batches, the same in every process
        process: whose
        samples: how many images all processes have together at most
    """

    def __init__(self, batches: Iterable[Any], process: Process, samples: int | None):
        self._batches, self._process, self._samples = batches, process, samples

    def __iter__(self) -> Iterator[Any]:
        turns = itertools.cycle(range(self._process.size))
        left = self._samples
        for number, (turn, batch) in enumerate(zip(turns, self._batches, strict=False)):
            x = input_of(batch, number)
            if left is not None and left < len(x):
                labels = labels_of(batch, len(x))
                batch = x[:left] if labels is None else (x[:left], labels[:left])
            if turn == self._process.rank:
                yield batch
            left = None if left is None else left - len(x)
            if left is not None and left <= 0:
                return
