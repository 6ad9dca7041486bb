"""Compile and predict other designs of `paired_moments` beside the one that is launched.

    python bench/designs.py [--json FILE]

Each design replaces what `launch_config` chooses (tile, split) or takes the raw loop away, for
three taps of ResNet50 on an H100: compiled code and the model of `bench/predict.py`, nothing
measured.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import bench.compiled.launches as launches  # noqa: E402, I001  (first: it prepares the import of Triton)
import torch  # noqa: E402

import repair_kernels.kernels.paired_moments  # noqa: E402, F401  (the package's name is the op)
from bench.compile_kernels import row_of  # noqa: E402
from bench.predict import predict  # noqa: E402
from bench.measuring.provenance import provenance, write_rows  # noqa: E402
from repair_kernels.kernels.channel_moments import LaunchConfig  # noqa: E402
from repair_kernels.kernels.devices import KNOWN  # noqa: E402

OP = sys.modules["repair_kernels.kernels.paired_moments"]
RESULTS = Path(__file__).resolve().parent / "results"
CHIP, ARCH = "NVIDIA H100", "sm_90"
TAPS = ("conv1", "layer1.add", "layer4.add")
VALUES = {("bf16", "tf32x3"): "bf16", ("fp32", "tf32"): "tf32", ("fp32", "tf32x3"): "tf32x3"}


@dataclass(frozen=True)
class Design:
    """What differs from what is launched; None leaves it as it is."""

    label: str
    tile: int | None = None
    split: int | None = None  # positions; 0 for all of them
    has_raw: bool = True

    def config(self, n: int, c_a: int, c_b: int, *options: Any) -> LaunchConfig:
        """Return the launch's sizes, for the arguments of `launch_config`."""
        launched = LAUNCH_CONFIG(n, c_a, c_b, *options)
        config = launched if self.tile is None else self._tiled(n, c_a, c_b, launched, *options)
        if self.split is None:
            return config
        size = -(-(self.split or n) // config.block_n) * config.block_n
        return replace(config, split_size=size)

    def _tiled(
        self, n: int, c_a: int, c_b: int, launched: LaunchConfig, *options: Any
    ) -> LaunchConfig:
        dtype, device, precision, joint = options[:4]
        block_n = {64: 64, 128: 32, 256: 16}[self.tile] * (4 // dtype.itemsize)
        warps, stages = 8, 3
        if precision == "tf32x3":
            stages = 2
            if self.tile == 64:
                block_n, warps, stages = 32, 4, 3
        pairs = OP.pairs_of_tiles(c_a, c_b, self.tile, joint)
        places = device.processors * (2 if (self.tile, warps) == (64, 4) else 1)
        size = max(256, -(-n // OP._splits_that_fill(places, pairs)))
        size = -(-size // block_n) * block_n
        return replace(
            launched,
            block_n=block_n,
            block_c=self.tile,
            split_size=size,
            num_warps=warps,
            num_stages=stages,
        )


DESIGNS = (
    Design("as launched"),
    Design("tiles of 64", tile=64),
    Design("tiles of 128", tile=128),
    Design("tiles of 256", tile=256),
    Design("splits of 2,048 positions", split=2048),
    Design("all positions in one program", split=0),
    Design("centred loop only", has_raw=False),
)
LAUNCH_CONFIG: Callable[..., LaunchConfig] = OP.launch_config
MULTIPLICATION: Callable[..., dict[str, Any]] = OP._multiplication


@contextmanager
def chosen(design: Design) -> Iterator[None]:
    """Let the launcher take this design."""

    def multiplication(*arguments: Any) -> dict[str, Any]:
        flags = MULTIPLICATION(*arguments)
        return flags if design.has_raw else flags | {"HAS_RAW": False, "SNAP": 0.0}

    with (
        mock.patch.object(OP, "launch_config", design.config),
        mock.patch.object(OP, "_multiplication", multiplication),
    ):
        yield


def cases() -> Iterator[tuple[str, int, launches.Case, Callable[[], Any]]]:
    """Yield the taps in every kind of values: its name, the channels, the case and its call."""
    for case, call in launches.cases():
        values = VALUES.get((case.dtype, case.precision))
        kind = case.op, case.form, case.layout
        if values is None or kind != ("paired_moments", "cross", "channels_last"):
            continue
        if case.tap.network == "resnet50" and case.tap.name in TAPS:
            yield values, case.tap.channels, case, call


def row(
    design: Design, values: str, channels: int, case: launches.Case, call: Callable
) -> dict[str, Any]:
    """Compile one design for one case, and predict its time."""
    with chosen(design):
        started = launches.launches_of(KNOWN[ARCH], call)
    compiled = {}
    for one in started:
        compiled[one.launch.name, ARCH, one.launch.config] = row_of(one.launch, ARCH, [case], {})
    first = compiled[started[0].launch.name, ARCH, started[0].launch.config]
    expected = predict(case, started, CHIP, compiled)
    return {
        "design": design.label,
        "values": values,
        "channels": channels,
        "sizes": {name: started[0].launch.sizes[name] for name in ("BLOCK_N", "BLOCK_C")},
        "programs": started[0].programs,
        "registers": first["registers"],
        "spill_bytes": first["spill_bytes"],
        "fits": first["shared_bytes"] <= KNOWN[ARCH].shared_bytes,
        "floor": expected["floor"],
        "predicted": expected["predicted"],
        "limit": expected["limit"],
    }


def main() -> int:
    """Compile and predict every design."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=RESULTS / "designs.json")
    options = parser.parse_args()
    where = provenance("designs.py", torch.device("cpu"), sys.argv[1:])
    known, rows = list(cases()), []
    for design in DESIGNS:
        rows += [row(design, *case) for case in known]
        write_rows(options.json, where, rows)
        print(design.label, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
