"""The shape of the house: imports go down only, files stay small, importing is cheap."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "repair_kernels"

# From the ground up: a room imports from rows above it in this table, or from its left.
LAYERS = (
    ("errors", "atomic", "devices", "digests", "progress", "shard", "version"),
    ("reference", "kernels"),
    ("ops", "library"),
    ("moments", "axes", "rules", "graph", "ranks", "batches", "endpoints"),
    ("checkpoints", "published", "plotting", "images"),
    (
        "statistics",
        "matching",
        "interpolation",
        "affine",
        "folding",
        "scaling",
        "balancing",
        "calibration",
        "metrics",
        "evaluation",
    ),
    ("alignment", "sweeping", "repair_report", "pipeline"),
    ("cli",),
    ("__init__", "__main__"),
)
PLACE = {
    name: (row, column) for row, names in enumerate(LAYERS) for column, name in enumerate(names)
}

SOURCES = sorted(PACKAGE.rglob("*.py"))
ALL_SOURCES = sorted(
    path
    for room in ("repair_kernels", "models", "bench", "tests")
    for path in (ROOT / room).rglob("*.py")
)


def room_of(path: Path) -> str:
    """Return the module or sub-package directly under `repair_kernels` in which a file lies."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def run_time_imports(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield every import, also those in functions; not those under `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        else:
            yield from run_time_imports(child)


def imported_modules(path: Path) -> set[str]:
    """Return the absolute names that a file imports, `from m import n` as `m.n`."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    found = set()
    for node in run_time_imports(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
            continue
        base = list(package[: len(package) - node.level + 1]) if node.level else []
        base += [node.module] if node.module else []
        found.update(".".join([*base, alias.name]) for alias in node.names)
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down_only(path: Path) -> None:
    room = room_of(path)
    assert room in PLACE, f"give `{room}` its place in LAYERS"
    for module in imported_modules(path):
        if not module.startswith("repair_kernels."):
            continue
        target = module.split(".")[1]
        if target not in PLACE:  # a name that `__init__` defines, such as `__version__`
            target = "__init__"
        if target != room:
            assert PLACE[target] < PLACE[room], f"{room} imports {module}, which lies above it"


@pytest.mark.parametrize("room", sorted({room_of(path) for path in SOURCES}))
def test_modules_of_a_room_do_not_import_in_circles(room: str) -> None:
    inside = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): imported_modules(path)
        for path in SOURCES
        if room_of(path) == room
    }
    order = TopologicalSorter(
        {
            name: {
                one
                for one in inside
                if one in found or f"{one}." in "".join(f"{m}." for m in found)
            }
            for name, found in inside.items()
        }
    )
    order.prepare()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_package_imports_nothing_from_around_it(path: Path) -> None:
    roots = {module.split(".")[0] for module in imported_modules(path)}
    assert not roots & {"models", "tests", "bench"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_kernels_import_triton(path: Path) -> None:
    if room_of(path) != "kernels":
        assert "triton" not in {module.split(".")[0] for module in imported_modules(path)}


@pytest.mark.parametrize("path", ALL_SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_has_more_than_400_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.parametrize("path", ALL_SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_a_drawer_for_odds_and_ends(path: Path) -> None:
    assert not {"utils", "util", "common", "helpers", "helper", "misc"} & set(
        path.stem.strip("_").split("_")
    )


def test_import_needs_neither_triton_nor_matplotlib() -> None:
    program = (
        "import sys; sys.modules['triton'] = sys.modules['matplotlib'] = None\n"
        "import repair_kernels, repair_kernels.ops, repair_kernels.plotting\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_import_loads_neither_triton_nor_matplotlib() -> None:
    program = "import sys, repair_kernels; print(*sys.modules)"
    out = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split()
    assert not {"triton", "matplotlib"} & set(out)
