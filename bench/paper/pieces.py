"""Endpoints as float16 in files under 16 MiB, and back: how they come home from a GPU.

    python -m bench.paper.pieces pack FOLDER --recipes cifar10_resnet18     from runs/paper
    python -m bench.paper.pieces unpack FOLDER                              into runs/paper

    FOLDER/<hash>-seed<seed>.f16.<number>, FOLDER/endpoints.json

The pieces of a file joined are a safetensors file. Integers stay what they are. What is unpacked is
read like what was trained, but its weights are rounded to float16, and its report says so.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from safetensors.torch import load, save

from bench.paper.endpoints import cache_folder, write_json
from models.recipes import RECIPES
from models.run import replacing

PIECE = 15 * 2**20
INDEX = "endpoints.json"


def pack(files: Sequence[Path], folder: Path, size: int = PIECE) -> list[Path]:
    """Write checkpoints of a cache as float16, in pieces of at most `size` bytes; return these."""
    written, index = [], {}
    for file in files:
        name = f"{file.parent.name}-{file.stem}"
        state = load(file.read_bytes())
        data = save({k: v.half() if v.is_floating_point() else v for k, v in state.items()})
        pieces = [data[start : start + size] for start in range(0, len(data), size)]
        for number, piece in enumerate(pieces):
            written.append(folder / f"{name}.f16.{number}")
            with replacing(written[-1]) as temporary:
                temporary.write_bytes(piece)
        report = json.loads(file.with_suffix(".json").read_text())
        index[name] = {"pieces": len(pieces), "report": report}
    write_json(folder / INDEX, index)
    return written


def unpack(folder: Path, cache: Path) -> list[Path]:
    """Put the checkpoints of a folder of pieces into a cache, as float32; return these.

    Raises:
        FileNotFoundError: when a piece is missing
    """
    written = []
    for name, entry in json.loads((folder / INDEX).read_text()).items():
        key, _, seed = name.partition("-")
        pieces = [folder / f"{name}.f16.{number}" for number in range(entry["pieces"])]
        data = b"".join(piece.read_bytes() for piece in pieces)
        state = {k: v.float() if v.is_floating_point() else v for k, v in load(data).items()}
        file = cache / key / f"{seed}.safetensors"
        write_json(file.with_suffix(".json"), entry["report"] | {"stored_as": "float16"})
        with replacing(file) as temporary:
            temporary.write_bytes(save(state))
        written.append(file)
    return written


def endpoints_of(cache: Path, recipes: Sequence[str]) -> Iterator[Path]:
    """Yield the trained networks of some of the paper's recipes, however they were trained."""
    for report_file in sorted(cache.glob("*/seed*.json")):
        report = json.loads(report_file.read_text())
        for name in recipes:
            recipe = RECIPES[name]
            same = {"model": recipe.model, "dataset": recipe.dataset}
            options = report["recipe"].get("options", {})
            if options == dict(recipe.options) and same.items() <= report["recipe"].items():
                yield report_file.with_suffix(".safetensors")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.paper.pieces", description=__doc__.splitlines()[0]
    )
    parser.add_argument("action", choices=("pack", "unpack"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=[], metavar="NAME")
    parser.add_argument("--endpoints", type=Path, help="folder of endpoints (default: runs/paper)")
    options = parser.parse_args(arguments)
    cache = options.endpoints or cache_folder()
    if options.action == "unpack":
        written = unpack(options.folder, cache)
    else:
        written = pack(list(endpoints_of(cache, options.recipes)), options.folder)
    for file in written:
        print(f"{file}: {file.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
