"""A network's weights by name, and its evaluation mode."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from repair_kernels.errors import ArgumentError

State = dict[str, Tensor]
"""All parameters and buffers of a network by name, non-persistent buffers included."""


def check_module(model: object) -> None:
    """Check that a model is one.

    Raises:
        ArgumentError: when it is something else, such as a state dict.
    """
    if not isinstance(model, nn.Module):
        raise ArgumentError(
            f"a model must be a torch.nn.Module; got {type(model).__name__}; load the checkpoint "
            "into a network first"
        )


def state_of(model: nn.Module) -> State:
    """Return every parameter and buffer of a model by name, detached but not copied."""
    check_module(model)
    named = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    return {name: tensor.detach() for name, tensor in named}


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode and restore every module's own mode, whatever happens."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
