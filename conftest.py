"""Loaded by every pytest run, also one of a single module's doctests."""

import tests.typechecker  # noqa: F401  (jaxtyping's import hook imports no further than `tests`)
