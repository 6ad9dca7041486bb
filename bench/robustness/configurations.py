"""Files of options: a sound one, edits that leave some of them sound, and a judge of what is read.

The judge reads a file that was accepted by itself: every option must be one of the command's, have
its declared type, and be what the file says, or else its default.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from repair_kernels.cli.config import commands_of
from repair_kernels.cli.parser import parse, parser
from repair_kernels.errors import RepairKernelsError

COMMAND = "merge"
SET_BY_PARSER = {"run", "command", "config"}
SOUND = """\
# What the two networks are.
model = "models.mlp:MLP"
model-arg = { depth = 2, norm = "batch", bias = false }
a = "a.safetensors"
b = 'b.safetensors'

data = "images"         # class folders
seed = 1
batch_size = 32
quiet = true

[stats]
joint = true
checkpoint-every = 10.5

[merge]
output = "merged.safetensors"
alpha = 0.25
samples = 30
tap = ["conv", "block"]
variant = "sequential"
verify = false
batch-mean = true
"""
VALUES = (
    *("0", "7", "-3", "0x10", "1_000", "0.5", "1e3", "inf", "nan", "99999999999999999999"),
    *("true", "false", '""', '"conv"', "'forward'", '"30"', '"\\u00e9 = #"', '"""two\nlines"""'),
    *("[]", '["a", 2, 0.5]', "[[1]]", "{}", "{ depth = 3 }", "1979-05-27", '"$(touch x)"'),
)
"""Right for some options and wrong for others."""
KEYS = ("alpha", "tap", "batch_size", "joint", "device", "config", "help", "run", "xyzzy", '"a b"')
COMMENTS = ("# a note", "#", "# alpha = 3", "# \u00e9", "\t# behind a tab")


def change_value(text: str, draw: random.Random) -> str:
    """Give a key another value."""
    return _replaced(text, r"(?<= = )[^\n]+", lambda _: draw.choice(VALUES), draw)


def change_key(text: str, draw: random.Random) -> str:
    """Give a value another key, or spell the key in another way."""

    def changed(key: str) -> str:
        swapped = key.translate(str.maketrans("-_", "_-"))
        return draw.choice([swapped, f'"{key}"', draw.choice(KEYS)])

    return _replaced(text, r"(?m)^[\w-]+(?= = )", changed, draw)


def change_table(text: str, draw: random.Random) -> str:
    """Give a table another name, or the name with spaces around it."""
    names = ["[merge]", "[ merge ]", "[stats]", "[sweep]", "[merg]", "[[merge]]", "[merge.tap]"]
    return _replaced(text, r"(?m)^\[.*\]$", lambda _: draw.choice(names), draw)


def add_comment(text: str, draw: random.Random) -> str:
    """Put a comment at the end of a line."""
    return _replaced(text, r"(?m)$", lambda _: f" {draw.choice(COMMENTS)}", draw)


def add_space(text: str, draw: random.Random) -> str:
    """Put in empty lines, or spaces or tabs, or end all lines as Windows does."""
    if draw.random() < 0.2:
        return text.replace("\n", "\r\n")
    if draw.random() < 0.5:
        return _replaced(text, r"(?m)^", lambda _: draw.choice(["\n", "\n\n"]), draw)
    return _replaced(text, r"(?m)^|$|(?= = )|(?<= = )", lambda _: draw.choice(["  ", "\t"]), draw)


def move_line(text: str, draw: random.Random) -> str:
    """Leave out a line, or put it, or a copy of it, somewhere else."""
    lines = text.splitlines()
    line = draw.choice(lines) if draw.random() < 0.2 else lines.pop(draw.randrange(len(lines)))
    if draw.random() < 0.6:
        lines.insert(draw.randint(0, len(lines)), line)
    return "\n".join(lines)


EDITS = (change_value, change_key, change_table, add_comment, add_space, move_line)


def edited(data: bytes, draw: random.Random) -> tuple[str, bytes]:
    """Return the names of one to three random edits, and what they make of a file."""
    edits = draw.choices(EDITS, k=draw.randint(1, 3))
    text = data.decode()
    for edit in edits:
        text = edit(text, draw)
    return "+".join(edit.__name__ for edit in edits), text.encode()


def read(path: Path) -> argparse.Namespace:
    """Read a file of options as the command line does.

    Raises:
        RepairKernelsError: it is refused as wrong usage
        ValueError: it is accepted and must not be, or is read as what it does not say
    """
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            options = parse([COMMAND, "--config", str(path)])
        except SystemExit as end:
            if end.code != 2:
                raise ValueError(f"the program ended with {end.code}") from end
            raise RepairKernelsError(said.getvalue()) from end
    judge(options, tomllib.loads(path.read_text(encoding="utf-8")))
    return options


def judge(options: argparse.Namespace, content: dict[str, Any]) -> None:
    """Check that options are known, of their types, and what a file says.

    Raises:
        ValueError: one is not
    """
    commands = commands_of(parser())
    known = {action.dest: action for action in commands[COMMAND]._actions}
    of_commands = {key: held for key, held in content.items() if key in commands}
    top = {key: held for key, held in content.items() if key not in of_commands}
    for command, held in [*of_commands.items(), (None, top)]:
        allowed = [commands[command]] if command else commands.values()
        names = {action.dest for one in allowed for action in one._actions} - {"config", "help"}
        if unknown := {_name(key) for key in held} - names:
            raise ValueError(f"accepted with the unknown options {sorted(unknown)}")
    told = {_name(key): held for key, held in (top | of_commands.get(COMMAND, {})).items()}
    for name, value in vars(options).items():
        if name in SET_BY_PARSER:
            continue
        if name not in known:
            raise ValueError(f"`{name}` is no option of {COMMAND}")
        action = known[name]
        expected = _expected(action, told[name]) if name in told else action.default
        if type(value) is not type(expected) or repr(value) != repr(expected):
            raise ValueError(f"`{name}` is {value!r}, and should be {expected!r}")
        if action.choices is not None and value not in action.choices:
            raise ValueError(f"`{name}` is {value!r}, which is none of its choices")


def _expected(action: argparse.Action, held: Any) -> Any:
    """Return what an option must be by an entry of a file."""
    if action.nargs == 0:
        return held
    if not isinstance(action, argparse._AppendAction):
        return (action.type or str)(str(held))  # pyright: ignore[reportCallIssue]
    if isinstance(held, dict):
        held = [f"{key}={json.dumps(one)}" for key, one in held.items()]
    return [str(one) for one in (held if isinstance(held, list) else [held])] or action.default


def _name(key: str) -> str:
    return key.replace("-", "_")


def _replaced(text: str, pattern: str, by: Callable[[str], str], draw: random.Random) -> str:
    """Replace one of the places where a pattern is found."""
    found = list(re.finditer(pattern, text))
    if not found:
        return text
    place = draw.choice(found)
    return text[: place.start()] + by(place[0]) + text[place.end() :]
