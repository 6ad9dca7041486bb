"""Fixtures of the command line's tests."""

from pathlib import Path

import pytest

from tests.command_lines import written_pair


@pytest.fixture
def pair(tmp_path: Path) -> list[str]:
    """Write two checkpoints and labelled data; return the options that name them."""
    return written_pair(tmp_path)
