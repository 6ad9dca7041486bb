"""Completion scripts and the reference page: both know every command and every option."""

import subprocess
import sys
from pathlib import Path

import pytest

from repair_kernels.cli import main
from repair_kernels.cli.config import commands_of
from repair_kernels.cli.parser import parser
from repair_kernels.cli.reference import reference_page

ROOT = Path(__file__).parents[2]
OPTIONS = {
    option
    for command in commands_of(parser()).values()
    for action in command._actions
    for option in action.option_strings
    if option.startswith("--")
}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_option_is_completed(shell: str, capsys) -> None:
    pytest.importorskip("shtab")
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    missing = {o for o in OPTIONS if o not in script and o.removeprefix("--") not in script}
    assert not missing
    assert "merge-stats" in script


def test_the_bash_script_completes(tmp_path, capsys) -> None:
    pytest.importorskip("shtab")
    main(["completion", "bash"])
    script = tmp_path / "complete.sh"
    script.write_text(
        capsys.readouterr().out
        + "\nCOMP_WORDS=(repair-kernels merge --on-w) COMP_CWORD=2\n"
        + "$(complete -p repair-kernels | sed 's/.*-F \\([^ ]*\\).*/\\1/')\n"
        + "echo ${COMPREPLY[@]}\n"
    )
    found = subprocess.run(["bash", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "--on-worse"


def test_without_shtab_it_is_said_what_to_install(monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 1
    assert "made by shtab, which is not installed; install it: pip" in capsys.readouterr().err


def test_the_reference_page_is_current() -> None:
    written = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert written == f"{reference_page()}\n", (
        "python -m repair_kernels.cli.reference > docs/cli.md"
    )


def test_the_reference_page_has_every_option_with_its_help() -> None:
    page = reference_page()
    for name, command in commands_of(parser()).items():
        assert f"\n## {name}\n" in page
        for action in command._actions:
            assert action.help, f"{name} {action.option_strings or action.dest} has no help"
    assert not {option for option in OPTIONS - {"--help"} if f"`{option}`" not in page}
