"""Pages link to files of the repository, which are no pages: the built guide names them instead.

    [ops.py](../repair_kernels/ops.py)          ->  `repair_kernels/ops.py`
    [the table](../bench/eager.py)              ->  the table (`bench/eager.py`)

On a repository's web page such links work as they are. A link to what is not there is a warning,
and so ends the build.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

LINK = re.compile(r"\[(?P<text>[^\]]*)\]\((?P<target>\.\./[^)#\s]+)\)")
LOG = logging.getLogger("mkdocs.hooks.repository_links")


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Name the files of the repository that a page links to."""
    docs = Path(config["docs_dir"]).resolve()

    def named(match: re.Match[str]) -> str:
        target = (docs / page.file.src_uri).parent / match["target"]
        found = target.resolve()
        if found.is_relative_to(docs):
            return match[0]
        if not found.exists():
            LOG.warning("%s links to %s, which is not there", page.file.src_uri, match["target"])
        name = f"`{found.relative_to(docs.parent)}`"
        text = match["text"].strip("`")
        return name if name.strip("`").endswith(text) else f"{match['text']} ({name})"

    return LINK.sub(named, markdown)
