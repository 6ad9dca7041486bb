"""The reference page of the command line: `python -m repair_kernels.cli.reference > docs/cli.md`.

It is written from the parser, so that no option is missing; a test holds it to the parser.
"""

import argparse
from collections.abc import Iterator

from repair_kernels.cli.config import commands_of
from repair_kernels.cli.parser import parser

HEAD = """\
# Command line

<!-- Written by `python -m repair_kernels.cli.reference > docs/cli.md`; not by hand. -->

`repair-kernels COMMAND ...`, or `python -m repair_kernels COMMAND ...`. {description}

Exit codes: 0 done; 1 an error, explained on standard error; 2 wrong usage; 130 interrupted. Results
are on standard output, all else on standard error. Files are written whole or not at all, and never
over an input.

| command | what it does |
|---|---|
{commands}

Every option but `--config` can stand in a TOML file that `--config` names. Keys are the options'
names; at the top they are for all commands that have them, in a table for one command. The command
line wins.

```toml
model = "torchvision:resnet50"
a = "a.safetensors"
b = "b.safetensors"
data = "imagenet/train"
samples = 5000

[merge]
alpha = 0.5
tap = ["conv", "block"]   # repeatable options are lists
verify = false            # --no-verify
output = "merged.safetensors"

[merge.model-arg]         # NAME=VALUE options are tables
num_classes = 1000
```
"""


def reference_page() -> str:
    """Return the page in Markdown: every command with all of its options."""
    whole = parser()
    commands = commands_of(whole)
    rows = [f"| [`{name}`](#{name}) | {_sentence(p)} |" for name, p in commands.items()]
    head = HEAD.format(description=whole.description, commands="\n".join(rows))
    return "\n".join([head, *(line for name, p in commands.items() for line in _section(name, p))])


def _section(name: str, command: argparse.ArgumentParser) -> Iterator[str]:
    yield f"## {name}\n\n{command.description}\n"
    positional, options, *groups = command._action_groups
    own = [*positional._group_actions, *options._group_actions]
    yield from _table("", own)
    for group in groups:
        yield from _table(group.title or "", group._group_actions)


def _table(title: str, actions: list[argparse.Action]) -> Iterator[str]:
    shown = [action for action in actions if not isinstance(action, argparse._HelpAction)]
    if not shown:
        return
    yield f"| {title} | |\n|---|---|"
    for action in shown:
        needed = " (required)" if action.required and action.option_strings else ""
        yield f"| {_called(action)} | {_escaped(action.help or '')}{needed} |"
    yield ""


def _called(action: argparse.Action) -> str:
    """Return how an option is written."""
    value = ""
    if action.choices is not None:
        value = ", ".join(f"`{choice}`" for choice in action.choices)
    elif action.nargs != 0:
        value = f"`{action.metavar or action.dest.upper()}`"
    if not action.option_strings:
        return value
    names = ", ".join(f"`{option}`" for option in action.option_strings)
    return f"{names} {value}".rstrip()


def _sentence(command: argparse.ArgumentParser) -> str:
    return _escaped((command.description or "").partition(". ")[0].rstrip("."))


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("%%", "%")


if __name__ == "__main__":
    print(reference_page())
