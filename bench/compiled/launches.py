"""What the launchers would launch for the real taps and parameters, on a machine without a GPU.

The launchers run on tensors without storage, and their kernels are noted instead of started:
nothing is written down twice.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

# Compiling needs the compiler: the interpreter's kernels hold no source.
os.environ.pop("TRITON_INTERPRET", None)
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # today's default, without the warning

import torch  # noqa: E402
import triton  # noqa: E402
from torch import Tensor  # noqa: E402

from bench.forms import FORMS  # noqa: E402
from bench.measuring.roofline import RATES, floor_seconds, unit_of  # noqa: E402
from bench.shapes import RESNET50, TAPS, Tap  # noqa: E402
from repair_kernels import kernels  # noqa: E402
from repair_kernels.kernels.devices import Device  # noqa: E402
from repair_kernels.reference.lerp import Lerp  # noqa: E402

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
POINTERS = {torch.float64: "*fp64", torch.int64: "*i64", torch.int32: "*i32"}
POINTERS |= {dtype: f"*{name}" for name, dtype in DTYPES.items()}
OPTIONS = ("num_warps", "num_stages")
INPUTS = ("a_ptr", "b_ptr", "x_ptr")


@dataclass(frozen=True)
class Launch:
    """One kernel as a launcher would start it, without the values of its arguments."""

    kernel: Any
    signature: tuple[tuple[str, str], ...]  # argument -> type; "constexpr" for the next ones
    constants: tuple[tuple[str, Any], ...]
    aligned: tuple[str, ...]  # arguments that 16 divides
    options: tuple[tuple[str, int], ...]

    @property
    def name(self) -> str:
        """The kernel's name."""
        return self.kernel.__name__

    @property
    def config(self) -> str:
        """What the launcher decides: type, flags, sizes and options, on one line."""
        types = {kind.lstrip("*") for name, kind in self.signature if name in INPUTS}
        values = [f"{name}={value}" for name, value in self.constants if name.isupper()]
        values += [f"{name}={value}" for name, value in self.options]
        return " ".join([*sorted(types), *values])

    @property
    def variant(self) -> str:
        """What Triton makes of the run-time sizes: which are 1, and which 16 does not divide."""
        ones = [name.removeprefix("stride_") for name, _ in self.constants if not name.isupper()]
        sizes = [name for name, kind in self.signature if kind in ("i32", "i64")]
        odd = [name.removeprefix("stride_") for name in sizes if name not in self.aligned]
        return f"unit({','.join(ones)}) odd({','.join(odd)})"

    @property
    def sizes(self) -> dict[str, Any]:
        """The compile-time sizes and flags, and the launch options."""
        return dict(self.constants) | dict(self.options)


@dataclass(frozen=True)
class Started:
    """One launch with the sizes of this call."""

    launch: Launch
    grid: tuple[int, ...]
    tensors: tuple[tuple[str, int], ...]  # argument -> bytes that it holds
    scalars: tuple[tuple[str, int], ...]  # argument -> its value

    @property
    def programs(self) -> int:
        """How many programs run."""
        count = 1
        for size in self.grid:
            count *= size
        return count


@dataclass(frozen=True)
class Case:
    """One call of an op: what is computed, of what, with its counted work."""

    op: str
    name: str
    dtype: str
    layout: str
    form: str
    precision: str
    bytes: int
    flops: int
    tap: Tap | None = None

    def is_memory_bound(self, arch: str) -> bool:
        """Whether bytes set the floor; of chips without a data sheet here, as on an H100."""
        chip = next((chip for chip, rates in RATES.items() if rates.arch == arch), "NVIDIA H100")
        floor = floor_seconds(chip, self.bytes, self.flops, unit_of(self.dtype, self.precision))
        return floor == floor_seconds(chip, self.bytes)


def cases(quick: bool = False) -> Iterator[tuple[Case, Callable[[], Any]]]:
    """Yield every tap and state in every dtype, layout, form and precision, and its call.

    Quick: one tap, one layout for each dtype, and what differs most.
    """
    for dtype in ("fp32", "bf16") if quick else DTYPES:
        for tap in TAPS:
            # fp16 differs from bf16 in its multiplication alone: one tap shows it.
            if not (quick or dtype == "fp16") or tap.name == "layer2.add":
                yield from _tap_cases(tap, dtype, quick)
    for dtype in ("fp32", "bf16"):
        for form in ("gather",) if quick else ("plain", "gather"):
            count = sum(weight.lerp_bytes(DTYPES[dtype].itemsize) for weight in RESNET50)
            case = Case("lerp_rescale", "resnet50 state", dtype, "", form, "", count, 0)
            yield case, lambda dtype=dtype, form=form: _lerp(dtype, form)


def _tap_cases(tap: Tap, dtype: str, quick: bool) -> Iterator[tuple[Case, Callable[[], Any]]]:
    x = torch.empty(tap.shape, dtype=DTYPES[dtype], device="meta")
    layouts = {"rows": x} if x.dim() == 2 else {"nchw": x}
    if x.dim() == 4:
        layouts["channels_last"] = x.to(memory_format=torch.channels_last)
    if quick:
        del layouts["channels_last" if dtype == "fp32" else "nchw"]
    for layout, x in layouts.items():
        place = tap.label, dtype, layout
        channel_bytes = tap.channel_bytes(x.element_size())
        yield (
            Case("channel_moments", *place, "", "", channel_bytes, 0, tap),
            lambda x=x: kernels.channel_moments(x),
        )
        for form, precision in _ways(dtype, quick):
            count = tap.paired_bytes(x.element_size()), tap.paired_flops(form)
            yield (
                Case("paired_moments", *place, form, precision, *count, tap),
                lambda x=x, o=FORMS[form], p=precision: kernels.paired_moments(
                    x, torch.empty_like(x), precision=p or "tf32x3", **o
                ),
            )


def _ways(dtype: str, quick: bool) -> list[tuple[str, str]]:
    """Return the forms and precisions of `paired_moments` that are worth a launch of their own."""
    if quick:
        return [("cross", "tf32x3") if dtype == "fp32" else ("joint", "tf32x3"), ("diagonal", "")]
    if dtype == "fp16":  # as bf16 but for its multiplication
        return [("cross", "tf32x3")]
    if dtype == "bf16":
        return [("cross", "tf32x3"), ("joint", "tf32x3"), ("diagonal", "")]
    across = [("cross", precision) for precision in ("tf32x3", "tf32", "ieee")]
    return [*across, ("joint", "tf32x3"), ("diagonal", "")]


def _lerp(dtype: str, form: str) -> Any:
    """Interpolate a state; "gather" permutes b along both axes and rescales."""
    new = {"dtype": DTYPES[dtype], "device": "meta"}
    items = []
    for weight in RESNET50:
        a, b = torch.empty(weight.shape, **new), torch.empty(weight.shape, **new)
        item = Lerp(a, b)
        if form == "gather":
            channels = torch.arange(weight.shape[0])
            ones = torch.empty(weight.shape[0], device="meta")
            item = Lerp(a, b, index_out=channels, scale=ones, shift=ones)
            if a.dim() > 1:
                item = item._replace(index_in=torch.arange(weight.shape[1]))
        items.append(item)
    return kernels.lerp_rescale(items, [0.3])


class Recorder:
    """Stands for a kernel in its module and notes the launches."""

    def __init__(self, kernel: Any, started: list[Started]):
        self.kernel, self.started = kernel, started

    def __getitem__(self, grid: Any) -> Any:
        sizes = grid if isinstance(grid, tuple) else (grid,)
        return lambda **arguments: self._note(tuple(int(size) for size in sizes), arguments)

    def _note(self, grid: tuple[int, ...], arguments: dict[str, Any]) -> None:
        options = tuple((name, arguments.pop(name)) for name in OPTIONS)
        signature, constants, aligned, tensors, scalars = {}, {}, [], {}, {}
        before: list[Tensor] = []
        for parameter in self.kernel.params:
            name, value = parameter.name, arguments[parameter.name]
            if isinstance(value, Tensor):
                signature[name] = POINTERS[value.dtype]
                aligned.append(name)
                # An argument that a launch does not use may repeat another one.
                repeats = any(value is other for other in before)
                tensors[name] = 0 if repeats else value.numel() * value.element_size()
                before.append(value)
            elif parameter.is_constexpr or (value == 1 and not parameter.do_not_specialize):
                signature[name] = "constexpr"
                constants[name] = value
                scalars |= {} if parameter.is_constexpr else {name: value}
            else:
                scalars[name] = value
                signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
                if value % 16 == 0 and not parameter.do_not_specialize:
                    aligned.append(name)
        parts = signature.items(), constants.items(), aligned
        launch = Launch(self.kernel, *(tuple(part) for part in parts), options)
        self.started.append(Started(launch, grid, tuple(tensors.items()), tuple(scalars.items())))


@contextmanager
def recording(device: Device) -> Iterator[list[Started]]:
    """Note what the launchers would launch on `device` instead of launching it."""
    started: list[Started] = []
    room = kernels.__name__ + "."
    modules = [module for name, module in sys.modules.items() if name.startswith(room)]
    with ExitStack() as patches:
        for module in modules:
            for name, value in list(vars(module).items()):
                if name == "device_of" and not module.__name__.endswith("devices"):
                    patches.enter_context(mock.patch.object(module, name, return_value=device))
                if isinstance(value, triton.JITFunction) and name.endswith("_kernel"):
                    patches.enter_context(mock.patch.object(module, name, Recorder(value, started)))
        yield started


def launches_of(device: Device, call: Callable[[], Any]) -> list[Started]:
    """Return what one call would launch on `device`, in order."""
    with recording(device) as started:
        call()
    return started
