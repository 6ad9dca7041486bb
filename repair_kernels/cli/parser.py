"""The parser of the whole command line: every command adds itself."""

import argparse
from collections.abc import Sequence

from repair_kernels.cli import (
    completion,
    config,
    demo,
    inspecting,
    matching,
    merging,
    statistics,
    sweeping,
)
from repair_kernels.version import __version__


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    whole = argparse.ArgumentParser(
        prog="repair-kernels",
        description="Merge two trained networks of one architecture: match their channels, "
        "interpolate the weights, and repair the statistics (REPAIR).",
        epilog="exit codes: 0 done; 1 an error, explained on standard error; 2 wrong usage; 130 "
        "interrupted",
        allow_abbrev=False,
    )
    whole.add_argument("--version", action="version", version=f"repair-kernels {__version__}")
    commands = whole.add_subparsers(required=True, metavar="COMMAND")
    for family in (statistics, matching, merging, sweeping, inspecting, demo):
        family.add(commands)
    completion.add(commands, parser)
    return whole


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read a command line, and the file that its `--config` names."""
    whole = parser()
    return whole.parse_args(config.with_file(whole, list(arguments)))
