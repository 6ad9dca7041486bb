"""The lists of versions agree: what pyproject.toml allows, and what both environments install."""

import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]


def allowed() -> dict[str, Requirement]:
    """Return what pyproject.toml requires, extras included, by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    return {r.name: r for lines in lists for r in map(Requirement, lines)}


def lines(file: str) -> list[str]:
    every = (ROOT / file).read_text().splitlines()
    return [line for line in every if line and not line.startswith("#")]


def installed(file: str) -> list[tuple[str, Version]]:
    """Return the names and versions that a file of constraints pins."""
    pins = [Requirement(line.split("#")[0]) for line in lines(file)]
    return [(pin.name, Version(str(pin.specifier).removeprefix("=="))) for pin in pins]


def lowest(requirement: Requirement) -> Version:
    return Version(str(requirement.specifier).removeprefix(">="))


def test_the_floors_are_the_lowest_versions_that_are_allowed() -> None:
    floors = dict(installed("constraints-floors.txt"))
    assert {name: floors.get(name) for name in allowed()} == {
        name: lowest(requirement) for name, requirement in allowed().items()
    }


def test_a_floor_of_something_else_says_why() -> None:
    for line in lines("constraints-floors.txt"):
        assert Requirement(line.split("#")[0]).name in allowed() or "  # " in line, line


@pytest.mark.parametrize("name", allowed())
def test_what_is_installed_for_development_is_pinned_and_allowed(name: str) -> None:
    pins = [version for pinned, version in installed("constraints.txt") if pinned == name]
    assert pins
    assert all(version in allowed()[name].specifier for version in pins)
