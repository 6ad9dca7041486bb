"""Every fused op at once: its equation, its checks, the choice of backend, one call.

`backend=None` takes Triton for tensors on a GPU, plain PyTorch for tensors on a CPU, and Triton for
tensors on a CPU when its interpreter is on (`TRITON_INTERPRET=1`). `"triton"` and `"torch"` force
one, and fail when it cannot run; nothing falls back in silence. Triton is imported at first use.
"""

import os
from collections.abc import Sequence
from types import ModuleType
from typing import Literal, overload

import torch
from torch import Tensor

from . import reference
from .errors import ArgumentError
from .reference import ChannelSums, Lerp, PairedSums

__all__ = [
    "ChannelSums",
    "Lerp",
    "PairedSums",
    "channel_moments",
    "lerp_rescale",
    "paired_moments",
    "reads_once",
]

BACKENDS = ("triton", "torch")
PRECISIONS = ("tf32x3", "tf32", "ieee")
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def channel_moments(
    x: Tensor,
    *,
    channel_dim: int = 1,
    backend: str | None = None,
) -> ChannelSums:
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
    cross: bool | Literal["diagonal"] = True,
    joint: bool = False,
    precision: str = "tf32x3",
    moments: tuple[ChannelSums, ChannelSums] | None = None,
    onto: Tensor | None = None,
    backend: str | None = None,
) -> PairedSums:
    """Compute the moments of two networks at one tap, and the cross sums of all channel pairs.

        cross[i, j] = Σ_n (a[n, i] − mean_a[i]) · (b[n, j] − mean_b[j])
        diagonal[i] = cross[i, i]          within_a[i, j] = the same of a and a; within_b likewise

    Args:
        a: activations of network a, as in `channel_moments`.
        b: the same of network b: equal shape except along `channel_dim`, equal dtype and device.
        channel_dim: the dimension that counts channels (1 for images, -1 for rows and tokens).
        cross: whether to compute `cross`; "diagonal" for `diagonal` instead, of channels that are
            paired already (so many in `a` as in `b`); False for only the moments of both.
        joint: whether to compute `within_a` and `within_b` too, in the same pass.
        precision: how a GPU multiplies float32: "tf32x3" (three tensor-core products, near
            float32), "tf32" (one), "ieee" (no tensor cores). A CPU has no tf32 and multiplies
            float32 as it is; products of 16-bit values are exact everywhere.
        moments: what `channel_moments` gave for `a` and for `b`, if it is there; it saves a CPU a
            look at the data (a GPU finds the moments on the way).
        onto: float64, shape (c_a, c_b): what `cross` is added to, in place, and then is. Sums over
            many batches so need no memory for the sums of one.
        backend: None, "triton" or "torch"; see the module.

    Returns:
        mean_a, m2_a, mean_b, m2_b and what was asked for of cross, diagonal, within_a and within_b
        (else None), float64; zeros when there are no positions. `within_a` and `within_b` are
        exactly symmetric. Non-finite values show in the mean or m2 of their channel.

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
    if not (isinstance(cross, bool) or cross == "diagonal"):
        raise ArgumentError(f'`cross` must be True, False or "diagonal", got {cross!r}')
    if joint and cross is not True:
        raise ArgumentError(f"`joint=True` needs `cross=True`, got `cross={cross!r}`; drop one")
    c_a, c_b = a.shape[channel_dim], b.shape[channel_dim]
    if cross == "diagonal" and c_a != c_b:
        raise ArgumentError(
            f'`cross="diagonal"` needs as many channels in `a` as in `b`, but they have {c_a} and '
            f"{c_b}; pair the channels first, or take `cross=True`"
        )
    if precision not in PRECISIONS:
        raise ArgumentError(f"`precision` must be {_names(PRECISIONS)}, got {precision!r}")
    if moments is not None and [len(sums.mean) for sums in moments] != [c_a, c_b]:
        held = " and ".join(str(len(sums.mean)) for sums in moments)
        raise ArgumentError(
            f"`moments` must hold those of `a` and of `b`, for {c_a} and {c_b} channels, but they "
            f"are of {held}"
        )
    if onto is not None:
        _check_onto(onto, a, (c_a, c_b), cross)
    chosen = _backend(a, b, backend=backend)
    options = {"channel_dim": channel_dim, "cross": cross, "joint": joint, "precision": precision}
    if chosen is reference:
        return reference.paired_moments(a, b, **options, moments=moments, onto=onto)
    sums = chosen.paired_moments(a, b, **options)
    return sums if onto is None else sums._replace(cross=onto.add_(sums.cross))


@overload
def lerp_rescale(items: Lerp, alphas: float, *, backend: str | None = None) -> Tensor: ...
@overload
def lerp_rescale(
    items: Sequence[Lerp], alphas: float, *, backend: str | None = None
) -> list[Tensor]: ...
@overload
def lerp_rescale(
    items: Lerp, alphas: Sequence[float], *, backend: str | None = None
) -> list[Tensor]: ...
@overload
def lerp_rescale(
    items: Sequence[Lerp], alphas: Sequence[float], *, backend: str | None = None
) -> list[list[Tensor]]: ...
def lerp_rescale(
    items: Lerp | Sequence[Lerp],
    alphas: float | Sequence[float],
    *,
    backend: str | None = None,
) -> Tensor | list[Tensor] | list[list[Tensor]]:
    """Interpolate tensors of two networks, with b gathered, and rescale their output channels.

        mixed[i, j, …] = (1 − α) · a[i, j, …] + α · b[index_out[i], index_in[j], …]
        out[i, j, …] = scale[i] · mixed[i, j, …] + shift[i]

    Any number of tensors of any shapes and dtypes is one launch on a GPU, which reads each tensor
    once for all alphas.

    Args:
        items: a `Lerp`, or one for each tensor of a weight set, all on one device. Its fields:
            a: a tensor of shape (c_out, c_in · segment, …), (c_out,) or ().
            b: a tensor of the same shape, dtype and device.
            index_out: for each output channel, the channel of `b` that it takes; int64, shape
                (c_out,), on the device of `a` or on the CPU. On a GPU its range is checked without
                waiting: a value out of range stops the device.
            index_in: the same for each input channel; shape (c_in,).
            segment: positions along axis 1 for each input channel (behind a flatten).
            scale: a factor for each output channel, of any float dtype: shape (c_out,), or
                (alphas, c_out) where it differs between alphas.
            shift: a summand for each output channel, likewise.
        alphas: weights of b, in [0, 1], or one of them. Without `scale` and `shift`, 0 gives
            exactly `a`, and 1 exactly the gathered `b`.
        backend: None, "triton" or "torch"; see the module.

    Returns:
        For each alpha a list with a new tensor for each item, in the shape and dtype of its `a`;
        for one `Lerp` the tensor instead of its list, and for one alpha no list of alphas.
        Computed in float32, float64 from float64, and exact where `a` equals `b`; on a CPU values
        beyond half of the largest number may overflow.

    Raises:
        ArgumentError: the tensors do not fit together, or alpha or an index is out of range.

    Example:
        >>> a, b = torch.tensor([0.0, 0.0]), torch.tensor([1.0, 3.0])
        >>> lerp_rescale(Lerp(a, b, index_out=torch.tensor([1, 0])), 0.5).tolist()
        [1.5, 0.5]
        >>> [[quarter], [half]] = lerp_rescale([Lerp(a, b)], [0.25, 0.5])
    """
    is_single, is_point = isinstance(items, Lerp), not isinstance(alphas, Sequence)
    wanted = [items] if isinstance(items, Lerp) else list(items)
    points = list(alphas) if isinstance(alphas, Sequence) else [alphas]
    for alpha in points:
        if not (isinstance(alpha, (int, float)) and 0 <= alpha <= 1):
            raise ArgumentError(f"`alpha`, the weight of `b`, must lie in [0, 1], got {alpha!r}")
    for k, item in enumerate(wanted):
        try:
            _check_lerp(item, len(points))
        except ArgumentError as error:
            raise error if is_single else ArgumentError(f"item {k}: {error}") from None
    devices = {item.a.device for item in wanted}
    if len(devices) > 1:
        names = " and ".join(sorted(map(str, devices)))
        raise ArgumentError(
            f"`items` must be on one device, but are on {names}; make one call for each device"
        )
    _check_ranges(wanted)
    if not wanted:
        return [] if is_point else [[] for _ in points]
    chosen = _backend(wanted[0].a, backend=backend)
    mixed = chosen.lerp_rescale(wanted, [float(alpha) for alpha in points])
    if is_single:
        mixed = [tensors[0] for tensors in mixed]
    return mixed[0] if is_point else mixed


def reads_once(x: Tensor, backend: str | None = None) -> bool:
    """Tell whether `paired_moments` reads such a tensor once for its moments and products alike.

    Elsewhere the moments are better taken when an activation is fresh, and passed on.
    """
    return _backend(x, backend=backend) is not reference


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


def _check_onto(onto: Tensor, a: Tensor, shape: tuple[int, int], cross: bool | str) -> None:
    if cross is not True:
        raise ArgumentError(f"`onto` needs `cross=True`, got `cross={cross!r}`; drop one")
    _check_tensor("onto", onto)
    if onto.shape != shape or onto.dtype != torch.float64 or onto.device != a.device:
        raise ArgumentError(
            f"`onto` must be float64 of shape {shape} on {a.device}, got {onto.dtype} of shape "
            f"{_shape(onto)} on {onto.device}"
        )


def _check_lerp(item: Lerp, n_alphas: int) -> None:
    if not isinstance(item, Lerp):
        raise ArgumentError(f"`items` must hold `Lerp`s, got {type(item).__name__}")
    a, b = item.a, item.b
    _check_tensor("a", a)
    _check_tensor("b", b)
    _check_same(a, b)
    if a.shape != b.shape:
        raise ArgumentError(
            f"`a` and `b` must have equal shapes, but have {_shape(a)} and {_shape(b)}; give the "
            "same parameter of both networks"
        )
    if item.segment != 1 and (
        not isinstance(item.segment, int)
        or item.segment < 1
        or a.dim() < 2
        or a.shape[1] % item.segment
    ):
        raise ArgumentError(
            f"`segment` must divide the size of axis 1 of the shape {_shape(a)}, got "
            f"{item.segment!r}; give the positions that a channel has behind the flatten"
        )
    _check_index("index_out", item.index_out, a, item.c_out)
    _check_index("index_in", item.index_in, a, item.c_in)
    _check_per_channel("scale", item.scale, a, item.c_out, n_alphas)
    _check_per_channel("shift", item.shift, a, item.c_out, n_alphas)


def _check_index(name: str, index: Tensor | None, a: Tensor, size: int) -> None:
    if index is None:
        return
    if not isinstance(index, Tensor) or index.dtype != torch.int64 or index.shape != (size,):
        is_tensor = isinstance(index, Tensor)
        came = f"{index.dtype} of shape {_shape(index)}" if is_tensor else repr(index)
        raise ArgumentError(
            f"`{name}` must be int64 of shape ({size},) for the shape {_shape(a)}, got {came}"
        )
    if not index.is_cpu and index.device != a.device:
        raise ArgumentError(f"`{name}` must be on {a.device} like `a`, got {index.device}; move it")
    if index.is_cpu and size:
        low, high = index.aminmax()
        if low.item() < 0 or high.item() >= size:
            raise ArgumentError(
                f"`{name}` must hold channels of `b`, in [0, {size}), but some are out of range"
            )


def _check_ranges(items: Sequence[Lerp]) -> None:
    """Check all indices that are on a GPU at once, without waiting for it."""
    indices = [index for item in items for index in (item.index_out, item.index_in)]
    on_gpu = [index for index in indices if index is not None and index.is_cuda]
    if on_gpu:
        sizes = torch.tensor([len(index) for index in on_gpu])
        bounds = torch.repeat_interleave(sizes, sizes).pin_memory()
        values = torch.cat(on_gpu)
        inside = (values >= 0) & (values < bounds.to(values.device, non_blocking=True))
        message = "`index_out` and `index_in` must hold channels of `b`, but some are out of range"
        torch.ops.aten._assert_async.msg(inside.all(), message)


def _check_per_channel(
    name: str, values: Tensor | None, a: Tensor, size: int, n_alphas: int
) -> None:
    if values is None:
        return
    _check_tensor(name, values)
    if values.shape not in ((size,), (n_alphas, size)) or values.device != a.device:
        raise ArgumentError(
            f"`{name}` must have one value per output channel, shape ({size},) or ({n_alphas}, "
            f"{size}) on {a.device}, got {_shape(values)} on {values.device}"
        )


def _shape(x: Tensor) -> tuple[int, ...]:
    return tuple(x.shape)


def _names(values: tuple[str, ...]) -> str:
    return " or ".join(f'"{value}"' for value in values)
