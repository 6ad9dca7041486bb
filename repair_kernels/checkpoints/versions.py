"""The modules' state-dict versions, which travel with a state dict as its `_metadata`.

`Module.load_state_dict` reads them to know what an older release wrote; some modules refuse a state
dict without them.
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

# The key of a safetensors header under which the modules' state-dict versions lie.
VERSIONS_KEY = "state_dict_versions"
# The key beside the modules' versions under which a PyTorch file keeps `metadata`.
METADATA_KEY = "repair_kernels.metadata"


def versions_of(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the modules' state-dict versions that come with a state dict, by module."""
    versions = getattr(state, "_metadata", None)
    if not isinstance(versions, Mapping):
        return {}
    return {
        key: dict(value)
        for key, value in versions.items()
        if isinstance(key, str) and isinstance(value, Mapping) and key != METADATA_KEY
    }


def with_versions(tensors: Mapping[str, Any], versions: Mapping[str, Any]) -> dict[str, Any]:
    """Return tensors, read or stored, as `Module.state_dict` would: ordered, with the versions."""
    state = OrderedDict(tensors)
    if versions:
        state._metadata = OrderedDict(versions)  # pyright: ignore[reportAttributeAccessIssue]
    return state


def without_prefix(versions: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Remove a wrapper's prefix from the names of the modules whose versions are given."""
    wrapper = prefix.removesuffix(".")
    stripped = {key.removeprefix(prefix): value for key, value in versions.items() if key}
    return {("" if key == wrapper else key): value for key, value in stripped.items()}
