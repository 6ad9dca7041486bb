"""Every fused op at once: its equation, its checks, the choice of backend, one call.

`backend=None` takes Triton for tensors on a GPU, plain PyTorch for tensors on a CPU, and Triton for
tensors on a CPU when its interpreter is on (`TRITON_INTERPRET=1`). `"triton"` and `"torch"` force
one, and fail when it cannot run; nothing falls back in silence. Triton is imported at first use.
"""

import os
from types import ModuleType

import torch
from torch import Tensor

from . import reference
from .errors import ArgumentError
from .reference import ChannelSums, PairedSums

__all__ = ["ChannelSums", "PairedSums", "channel_moments", "lerp_rescale", "paired_moments"]

BACKENDS = ("triton", "torch")
PRECISIONS = ("tf32x3", "tf32", "ieee")
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def channel_moments(x: Tensor, *, channel_dim: int = 1, backend: str | None = None) -> ChannelSums:
    """Compute the mean and the sum of squared deviations of every channel.

        mean[i] = Σ_n x[n, i] / n          m2[i] = Σ_n (x[n, i] − mean[i])²

    Args:
        x: activations of any shape and strides, float32, float16, bfloat16 or float64; all
            dimensions but one are positions.
        channel_dim: the dimension that counts channels (1 for images, -1 for rows and tokens).
        backend: None, "triton" or "torch"; see the module.

    Returns:
        mean and m2, float64, shape (c,), on the device of `x`; zeros when there are no positions.
        The number n of positions is x.numel() / c. A channel that holds NaN or infinity has a mean
        or m2 that is not finite; finite float32 values up to 1e17 never have.

    Raises:
        ArgumentError: `x` or an option is not what is described here.

    Example:
        >>> sums = channel_moments(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
        >>> sums.mean.tolist(), sums.m2.tolist()
        ([2.0, 5.0], [2.0, 0.0])
    """
    _check_activation("x", x, channel_dim)
    return _backend(x, backend=backend).channel_moments(x, channel_dim=channel_dim)


def paired_moments(
    a: Tensor,
    b: Tensor,
    *,
    channel_dim: int = 1,
    cross: bool = True,
    precision: str = "tf32x3",
    backend: str | None = None,
) -> PairedSums:
    """Compute the moments of two networks at one tap, and the cross sums of all channel pairs.

        cross[i, j] = Σ_n (a[n, i] − mean_a[i]) · (b[n, j] − mean_b[j])

    Args:
        a: activations of network a, as in `channel_moments`.
        b: the same of network b: equal shape except along `channel_dim`, equal dtype and device.
        channel_dim: the dimension that counts channels (1 for images, -1 for rows and tokens).
        cross: whether to compute `cross`; without it only the moments of both.
        precision: how a GPU multiplies float32: "tf32x3" (three tensor-core products, near
            float32), "tf32" (one), "ieee" (no tensor cores). A CPU has no tf32 and multiplies
            float32 as it is; products of 16-bit values are exact everywhere.
        backend: None, "triton" or "torch"; see the module.

    Returns:
        mean_a, m2_a, mean_b, m2_b and cross (or None), float64; zeros when there are no positions.
        Non-finite values show in the mean or m2 of their channel.

    Raises:
        ArgumentError: the tensors do not fit together, or an option is unknown.

    Example:
        >>> a = torch.tensor([[1.0, 0.0], [3.0, 2.0]])
        >>> paired_moments(a, a[:, :1], precision="ieee").cross.tolist()
        [[2.0], [2.0]]
    """
    _check_activation("a", a, channel_dim)
    _check_activation("b", b, channel_dim)
    _check_same(a, b)
    positions_a, positions_b = list(a.shape), list(b.shape)
    del positions_a[channel_dim], positions_b[channel_dim]
    if a.dim() != b.dim() or positions_a != positions_b:
        raise ArgumentError(
            f"`a` and `b` must have equal shapes except along `channel_dim`={channel_dim}, but "
            f"have {_shape(a)} and {_shape(b)}; give both networks' activations for one batch"
        )
    if precision not in PRECISIONS:
        raise ArgumentError(f"`precision` must be {_names(PRECISIONS)}, got {precision!r}")
    chosen = _backend(a, b, backend=backend)
    return chosen.paired_moments(a, b, channel_dim=channel_dim, cross=cross, precision=precision)


def lerp_rescale(
    a: Tensor,
    b: Tensor,
    alpha: float,
    *,
    index_out: Tensor | None = None,
    index_in: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Interpolate a tensor of two networks, with b gathered, and rescale its output channels.

        mixed[i, j, …] = (1 − α) · a[i, j, …] + α · b[index_out[i], index_in[j], …]
        out[i, j, …] = scale[i] · mixed[i, j, …] + shift[i]

    Args:
        a: a tensor of shape (c_out, c_in, …), (c_out,) or ().
        b: a tensor of the same shape, dtype and device.
        alpha: weight of b, in [0, 1]. Without `scale` and `shift`, 0 gives exactly `a`, and 1
            exactly the gathered `b`.
        index_out: for each output channel, the channel of `b` that it takes; int64, shape (c_out,).
            On a GPU its range is checked without waiting: a value out of range stops the device.
        index_in: the same for each input channel; shape (c_in,).
        scale: a factor for each output channel, of any float dtype.
        shift: a summand for each output channel, of any float dtype.
        backend: None, "triton" or "torch"; see the module.

    Returns:
        A new tensor in the shape and dtype of `a`; computed in float32, float64 from float64.

    Raises:
        ArgumentError: the tensors do not fit together, or alpha or an index is out of range.

    Example:
        >>> a, b = torch.tensor([0.0, 0.0]), torch.tensor([1.0, 3.0])
        >>> lerp_rescale(a, b, 0.5, index_out=torch.tensor([1, 0])).tolist()
        [1.5, 0.5]
    """
    for name, tensor in (("a", a), ("b", b)):
        _check_tensor(name, tensor)
    _check_same(a, b)
    if a.shape != b.shape:
        raise ArgumentError(
            f"`a` and `b` must have equal shapes, but have {_shape(a)} and {_shape(b)}; give the "
            "same parameter of both networks"
        )
    if not (isinstance(alpha, (int, float)) and 0 <= alpha <= 1):
        raise ArgumentError(f"`alpha`, the weight of `b`, must lie in [0, 1], got {alpha!r}")
    c_out, c_in = (*a.shape, 1, 1)[:2]
    _check_index("index_out", index_out, a, c_out)
    _check_index("index_in", index_in, a, c_in if a.dim() > 1 else 1)
    _check_per_channel("scale", scale, a, c_out if a.dim() else 1)
    _check_per_channel("shift", shift, a, c_out if a.dim() else 1)
    chosen = _backend(a, b, backend=backend)
    return chosen.lerp_rescale(
        a, b, float(alpha), index_out=index_out, index_in=index_in, scale=scale, shift=shift
    )


def _backend(*tensors: Tensor, backend: str | None) -> ModuleType:
    """Return the package that runs an op on these tensors: `kernels` or `reference`."""
    if backend not in (None, *BACKENDS):
        raise ArgumentError(f"`backend` must be None, {_names(BACKENDS)}, got {backend!r}")
    device = tensors[0].device.type
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if backend == "torch" or (backend is None and device == "cpu" and not interpreted):
        return reference
    if not (device == "cuda" or (device == "cpu" and interpreted)):
        raise ArgumentError(
            "Triton runs on tensors on a CUDA or ROCm device, and on a CPU if TRITON_INTERPRET=1 "
            f'was set before its first use, but these are on "{device}"; move them, or pass '
            'backend="torch"'
        )
    try:
        from . import kernels
    except ImportError as error:
        raise ArgumentError(
            "the Triton kernels need the package `triton`, which cannot be imported; install it, "
            'or pass backend="torch"'
        ) from error
    return kernels


def _check_tensor(name: str, tensor: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise ArgumentError(f"`{name}` must be a tensor, got {type(tensor).__name__}")
    if tensor.dtype not in DTYPES or tensor.layout != torch.strided:
        raise ArgumentError(
            f"`{name}` must be a dense tensor of float32, float16, bfloat16 or float64, got "
            f"{tensor.layout} of {tensor.dtype}"
        )


def _check_activation(name: str, x: Tensor, channel_dim: int) -> None:
    _check_tensor(name, x)
    if not -x.dim() <= channel_dim < x.dim():
        raise ArgumentError(
            f"`channel_dim` must be a dimension of `{name}`, got {channel_dim} for {_shape(x)}"
        )


def _check_same(a: Tensor, b: Tensor) -> None:
    if a.dtype != b.dtype or a.device != b.device:
        raise ArgumentError(
            f"`a` and `b` must have one dtype and one device, but are {a.dtype} on {a.device} and "
            f"{b.dtype} on {b.device}; convert one of them"
        )


def _check_index(name: str, index: Tensor | None, a: Tensor, size: int) -> None:
    if index is None:
        return
    if not isinstance(index, Tensor) or index.dtype != torch.int64 or index.shape != (size,):
        is_tensor = isinstance(index, Tensor)
        came = f"{index.dtype} of shape {_shape(index)}" if is_tensor else repr(index)
        raise ArgumentError(
            f"`{name}` must be int64 of shape ({size},) for the shape {_shape(a)}, got {came}"
        )
    if index.device != a.device:
        raise ArgumentError(f"`{name}` must be on {a.device} like `a`, got {index.device}; move it")
    inside = (index >= 0).logical_and_(index < size).all()
    message = f"`{name}` must hold channels of `b`, in [0, {size}), but some are out of range"
    if index.device.type == "cuda":
        torch.ops.aten._assert_async.msg(inside, message)
    elif not inside:
        raise ArgumentError(message)


def _check_per_channel(name: str, values: Tensor | None, a: Tensor, size: int) -> None:
    if values is None:
        return
    _check_tensor(name, values)
    if values.shape != (size,) or values.device != a.device:
        raise ArgumentError(
            f"`{name}` must have one value per output channel, shape ({size},) on {a.device}, got "
            f"{_shape(values)} on {values.device}"
        )


def _shape(x: Tensor) -> tuple[int, ...]:
    return tuple(x.shape)


def _names(values: tuple[str, ...]) -> str:
    return " or ".join(f'"{value}"' for value in values)
