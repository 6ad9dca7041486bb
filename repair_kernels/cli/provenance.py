"""What a merged checkpoint says of how it was made."""

import json
from collections.abc import Sequence

from repair_kernels.version import __version__


def made_by(alpha: float, variant: str, explicit: Sequence[str]) -> dict[str, str]:
    """Return the metadata of a merged checkpoint's file."""
    return {
        "made_by": f"repair-kernels {__version__}",
        "alpha": str(alpha),
        "variant": variant,
        "explicit_layers": json.dumps(list(explicit)),
    }
