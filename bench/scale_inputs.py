"""Measure on this machine what the scale model reads: decoding, listing, operators, start-up.

    python bench/scale_inputs.py [--json bench/results/scale_inputs.json]

Times are processor time of one thread, the least of several rounds: other work on the machine
changes them little. Images are 500 x 375 pixels, with as many bytes as ImageNet's files have.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import bench.compiled.launches  # noqa: E402, F401, I001  (first: it prepares the import of Triton)
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from torch.nn import functional  # noqa: E402

from bench.scaling.cluster import JPEG_BYTES  # noqa: E402
from bench.compile_kernels import TARGETS, compile_launch  # noqa: E402
from bench.measuring.provenance import provenance  # noqa: E402
from bench.scale import NETWORKS, kernel_launches, workload  # noqa: E402
from bench.scale_check import operator_seconds  # noqa: E402
from repair_kernels.batches import Batches  # noqa: E402
from repair_kernels.endpoints import capture_pair  # noqa: E402
from repair_kernels.images import open_images  # noqa: E402
from repair_kernels.images.image_folder import ImageFolder  # noqa: E402

WIDTH, HEIGHT = 500, 375
ROUNDS = 5
FILES, FOLDERS = 20_000, 20


def least(work: Callable[[], Any], rounds: int = ROUNDS) -> float:
    """Return the processor time of a call, the least of several."""
    times = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def photograph() -> bytes:
    """Return a JPEG file of a picture with coarse and fine detail, of about ImageNet's size."""
    generator = torch.Generator().manual_seed(0)
    picture = torch.zeros(1, 3, HEIGHT, WIDTH)
    for cells in (4, 16, 64, 256):
        noise = torch.rand(1, 3, cells * HEIGHT // WIDTH, cells, generator=generator)
        picture += functional.interpolate(noise, (HEIGHT, WIDTH), mode="bicubic") / cells**0.5
    picture = (picture / picture.amax()).clamp(0, 1)[0]
    image = Image.fromarray((picture * 255).byte().permute(1, 2, 0).numpy())
    files = []
    for quality in range(50, 100):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        files.append(file.getvalue())
    return min(files, key=lambda file: abs(len(file) - JPEG_BYTES))


def decoding() -> dict[str, float]:
    """Return the seconds of one core for one image, from a file and from decoded pixels."""
    file = photograph()
    decoded = [torch.zeros(3, 224, 224, dtype=torch.uint8) for _ in range(64)]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "class").mkdir()
        Path(folder, "class", "image.jpg").write_bytes(file)
        images = open_images(folder)
        jpeg = least(lambda: [images.image(0) for _ in range(20)]) / 20
    pixels = least(lambda: torch.stack(decoded)) / len(decoded)
    return {
        "file_bytes": len(file),
        "jpeg_seconds": jpeg,
        "pixels_seconds": pixels,
    }


def listing_seconds() -> float:
    """Return the seconds for one file of a folder of class folders, on a local file system."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for one in range(FOLDERS):
            (root / f"class{one}").mkdir()
            for file in range(FILES // FOLDERS):
                (root / f"class{one}" / f"{file}.jpg").touch()
        return least(lambda: ImageFolder(root)) / FILES


def import_seconds() -> float:
    """Return the processor time of a new interpreter that imports the package."""
    script = "import time, repair_kernels; print(time.process_time())"
    command = [sys.executable, "-c", script]
    where = {**os.environ, "PYTHONPATH": str(ROOT)}
    runs = [subprocess.check_output(command, cwd=ROOT, env=where) for _ in range(3)]
    return min(map(float, runs))


def capture_seconds(name: str) -> float:
    """Return the processor time for the graph of a pair of networks."""
    networks = [NETWORKS[name]().eval() for _ in "ab"]
    data = Batches([torch.zeros(2, 3, 224, 224)])
    return least(lambda: capture_pair(networks[0], networks[1], data), rounds=3)


def compilation(name: str) -> dict[str, float]:
    """Return how many kernels a network's statistics need on an H100, and their compilation."""
    found = {
        (one.launch.name, one.launch.config, one.launch.variant): one.launch
        for started in kernel_launches(workload(name), "fp32").values()
        for one in started
    }
    start = time.process_time()
    with tempfile.TemporaryDirectory() as empty:
        os.environ["TRITON_CACHE_DIR"] = empty
        for launch in found.values():
            compile_launch(launch, TARGETS["sm_90"])
    return {"kernels": len(found), "seconds": time.process_time() - start}


def main() -> int:
    """Measure everything and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    results = ROOT / "bench" / "results" / "scale_inputs.json"
    parser.add_argument("--json", type=Path, default=results, metavar="FILE")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {
        "decode": decoding(),
        "listing_seconds": listing_seconds(),
        "import_seconds": import_seconds(),
        "operator_seconds": operator_seconds(),
        "capture_seconds": {name: capture_seconds(name) for name in NETWORKS},
        "compilation": {name: compilation(name) for name in NETWORKS},
    }
    where = provenance("scale_inputs.py", torch.device("cpu"), sys.argv[1:])
    options.json.write_text(json.dumps({**where, **found}, indent=1) + "\n")
    print(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
