"""Options from a TOML file: keys are the options' names, and the command line wins.

    data = "my_data:batches"            # at the top: for every command that has the option
    model-arg = { depth = 10 }          # NAME=VALUE options are tables

    [merge]                             # for one command
    alpha = 0.25
    tap = ["conv", "block"]             # repeatable options are lists
    verify = false

Paths are relative to the current folder, as on the command line.
"""

import argparse
import difflib
import json
import reprlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from repair_kernels.cli.arguments import PAIR

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

OPTION = "--config"
NOT_IN_FILES = ("config", "help")
LARGEST = 2**13
"""In bytes. Keys of many parts take a TOML parser time and memory as the square of their number."""


def with_file(whole: argparse.ArgumentParser, arguments: list[str]) -> list[str]:
    """Return a command line with the options of the file that it names put in.

    Options that are on the command line are left out of the file's. What is wrong with the file
    ends the program as wrong usage does.
    """
    commands = commands_of(whole)
    at = next((i for i, word in enumerate(arguments) if word in commands), None)
    files = _values_of(OPTION, arguments)
    if at is None or not files:
        return arguments
    command = arguments[at]
    parser = commands[command]
    if len(files) > 1:
        parser.error(
            f"{OPTION} must be given once; got {' and '.join(files)}; put their options into one "
            "file"
        )
    [file] = files
    given = {_name(word) for word in arguments[at + 1 :]}
    known = {name: _options(p) for name, p in commands.items()}
    try:
        settings = _settings(_read(file), command, known)
        found = [
            word
            for name, value in settings.items()
            if not given & set(known[command][name].option_strings)
            for word in _words(name, known[command][name], value)
        ]
    except ValueError as error:
        parser.error(f"{file}: {error}")
    return [*arguments[: at + 1], *found, *arguments[at + 1 :]]


def commands_of(whole: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the commands of a parser, by name."""
    [choices] = [a for a in whole._actions if isinstance(a, argparse._SubParsersAction)]
    return dict(choices.choices)


def _read(file: str) -> dict[str, Any]:
    try:
        size = Path(file).stat().st_size
        if size > LARGEST:
            raise ValueError(
                f"has {size:,} bytes, and options fit into {LARGEST:,}; name a file of options"
            )
        return tomllib.loads(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror or error}); check the path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"is no TOML ({error}); see https://toml.io") from error


def _settings(
    content: dict[str, Any], command: str, known: dict[str, dict[str, argparse.Action]]
) -> dict[str, Any]:
    """Return the options for a command: those at the top, and over them those of its table."""
    everywhere = {name for options in known.values() for name in options}
    top: dict[str, Any] = {}
    tables: dict[str, dict[str, Any]] = {}
    for key, value in content.items():
        if key in known and isinstance(value, dict):
            tables[key] = {_spelt(inner): held for inner, held in value.items()}
            _check_known(tables[key], known[key], f"option of {key}")
        else:
            top[_spelt(key)] = value
    _check_known(top, {*everywhere, *known}, "option or command")
    of_command = {name: value for name, value in top.items() if name in known[command]}
    return {**of_command, **tables.get(command, {})}


def _check_known(names: Any, known: Any, what: str) -> None:
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, list(known), n=3)
            advice = f"did you mean {', '.join(close)}?" if close else "see --help for all of them"
            raise ValueError(f"`{name}` is no {what}; {advice}")


def _options(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """Return the options of a command that a file can have, by their long names."""
    found = {
        option.removeprefix("--"): action
        for action in parser._actions
        for option in action.option_strings
        if option.startswith("--")
    }
    return {
        name: action
        for name, action in found.items()
        if name not in NOT_IN_FILES and not _is_negation(name, action)
    }


def _is_negation(name: str, action: argparse.Action) -> bool:
    return isinstance(action, argparse.BooleanOptionalAction) and name.startswith("no-")


def _words(name: str, action: argparse.Action, value: Any) -> Iterator[str]:
    """Yield the command-line words that say the same as an entry of the file."""
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise ValueError(f"`{name}` must be true or false; got {reprlib.repr(value)}")
        if value:
            yield f"--{name}"
        elif isinstance(action, argparse.BooleanOptionalAction):
            yield f"--no-{name}"
        return
    is_repeatable = isinstance(action, argparse._AppendAction)
    if action.metavar == PAIR and isinstance(value, dict):
        try:
            value = [f"{key}={json.dumps(held)}" for key, held in value.items()]
        except RecursionError as error:
            raise ValueError(
                f"`{name}` must be a table of values; got {reprlib.repr(value)}, which is nested "
                "too deeply; write it flat"
            ) from error
    elif action.metavar == "C,H,W" and isinstance(value, list):
        value = ",".join(map(str, value))
    values = value if is_repeatable and isinstance(value, list) else [value]
    for one in values:
        if isinstance(one, bool) or not isinstance(one, str | int | float):
            allowed = "a text, a number, or a list of them" if is_repeatable else "a text or number"
            raise ValueError(f"`{name}` must be {allowed}; got {reprlib.repr(one)}")
        yield f"--{name}={one}"


def _values_of(option: str, words: Sequence[str]) -> list[str]:
    found = []
    for word, following in zip(words, [*words[1:], None], strict=True):
        if word == option and following is not None:
            found.append(following)
        elif word.startswith(f"{option}="):
            found.append(word.partition("=")[2])
    return found


def _name(word: str) -> str:
    """Return the option that a word of the command line is, if it is one."""
    return word.partition("=")[0] if word.startswith("--") else word[:2]


def _spelt(key: str) -> str:
    return key.replace("_", "-")
