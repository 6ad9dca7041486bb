"""Pages that `mkdocs.yml` does not name come last, under "More": none is left out of the guide."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any


def on_config(config: Any) -> Any:
    """Add the pages that are not in the navigation."""
    docs = Path(config["docs_dir"])
    listed = set(_pages(config["nav"]))
    found = sorted(page.relative_to(docs).as_posix() for page in docs.rglob("*.md"))
    rest = [page for page in found if page not in listed]
    if rest:
        config["nav"] = [*config["nav"], {"More": rest}]
    return config


def _pages(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
        return
    for entry in nav.values() if isinstance(nav, dict) else nav:
        yield from _pages(entry)
