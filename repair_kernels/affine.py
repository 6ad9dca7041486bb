"""`ChannelAffine`: what REPAIR does to one tap, as a layer."""

import torch
from torch import Tensor, nn


class ChannelAffine(nn.Module):
    """Scale and shift every channel.

        y[:, i] = scale[i] * x[:, i] + shift[i]

    Args:
        scale, shift: one value per channel, kept in float64 until the layer is cast with
            `.to(dtype)`
        channel_dim: the dimension of `x` that counts channels
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, scale: Tensor, shift: Tensor, channel_dim: int = 1):
        super().__init__()
        self.scale = nn.Parameter(scale.detach().clone(), requires_grad=False)
        self.shift = nn.Parameter(shift.detach().clone(), requires_grad=False)
        self.channel_dim = channel_dim
        # In the state dict too, so that a checkpoint says all there is to say of the layer.
        self.register_buffer("dim", torch.tensor(channel_dim))

    def forward(self, x: Tensor) -> Tensor:
        """Return the corrected activation, in the dtype of `x`."""
        shape = [1] * x.dim()
        shape[self.channel_dim] = -1
        scale, shift = self.scale.to(x.dtype), self.shift.to(x.dtype)
        return torch.addcmul(shift.view(shape), x, scale.view(shape))

    def extra_repr(self) -> str:
        """Show the number of channels in the module's representation."""
        return f"{self.scale.numel()}, channel_dim={self.channel_dim}"
