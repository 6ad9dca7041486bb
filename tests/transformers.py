"""Small networks with nested structure: vision transformer, shifted windows, mixer, gated units."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEADS, WIDTH = 3, 4
C = HEADS * WIDTH
HIDDEN, TOKENS = 10, 4


class Attention(nn.Module):
    """Self-attention with one map to queries, keys and values, and a bias per head and distance."""

    def __init__(self, tokens: int, *, biased: bool = False) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(C, 3 * C), nn.Linear(C, C)
        if biased:
            self.table = nn.Parameter(torch.zeros(2 * tokens - 1, HEADS))
            place = torch.arange(tokens)
            self.register_buffer("distance", (place[:, None] - place + tokens - 1).reshape(-1))
        self.biased = biased

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, HEADS, WIDTH).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        scores = q * WIDTH**-0.5 @ k.transpose(-2, -1)
        if self.biased:
            bias = self.table[self.distance].view(tokens, tokens, HEADS).permute(2, 0, 1)
            scores = scores + bias.unsqueeze(0)
        y = scores.softmax(-1) @ v
        return self.proj(y.transpose(1, 2).reshape(batch, tokens, C))


class VisionTransformer(nn.Module):
    """One block, a class token, learned positions and layer scale, for images of 3 x 8 x 8."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, C, 4, stride=4)
        self.token = nn.Parameter(torch.zeros(1, 1, C))
        self.positions = nn.Parameter(torch.zeros(1, TOKENS + 1, C))
        self.norm1, self.norm2, self.norm = (nn.LayerNorm(C) for _ in range(3))
        self.attention = Attention(TOKENS + 1)
        self.scale = nn.Parameter(torch.ones(C))
        self.fc1, self.fc2 = nn.Linear(C, HIDDEN), nn.Linear(HIDDEN, C)
        self.head = nn.Linear(C, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        x = x + self.scale * self.attention(self.norm1(x))
        x = x + self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return self.head(self.norm(x)[:, 0])


class ShiftedWindows(nn.Module):
    """Attention in windows of 2 x 2 of an image that is rolled by one, for images of 3 x 8 x 8."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, C, 2, stride=2)
        self.norm = nn.LayerNorm(C)
        self.attention = Attention(4, biased=True)
        self.head = nn.Linear(C, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).permute(0, 2, 3, 1)
        y = self.norm(x).roll((-1, -1), (1, 2)).view(-1, 2, 2, 2, 2, C)
        y = self.attention(y.permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, C))
        y = y.view(-1, 2, 2, 2, 2, C).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, 4, C)
        return self.head((x + y.roll((1, 1), (1, 2))).mean((1, 2)))


class Mixer(nn.Module):
    """One block that mixes tokens, then channels, for images of 3 x 8 x 8."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, C, 4, stride=4)
        self.norm1, self.norm2 = nn.LayerNorm(C), nn.LayerNorm(C)
        self.token1, self.token2 = nn.Linear(TOKENS, 7), nn.Linear(7, TOKENS)
        self.fc1, self.fc2 = nn.Linear(C, HIDDEN), nn.Linear(HIDDEN, C)
        self.head = nn.Linear(C, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = x + self.token2(F.gelu(self.token1(self.norm1(x).transpose(1, 2)))).transpose(1, 2)
        x = x + self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return self.head(x.mean(1))


class Gated(nn.Module):
    """A gated unit whose value and gate are halves of one map, as SwiGLU."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 2 * HIDDEN), nn.Linear(HIDDEN, 5)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.first(x).chunk(2, -1)
        return self.last(F.silu(gate) * value)


class Shuffled(nn.Module):
    """A grouped convolution, a shuffle of channels by views, and a depthwise one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 5, 1)
        self.depthwise = nn.Conv2d(6, 6, 3, groups=6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        n, _, h, w = y.shape
        y = y.view(n, 2, 3, h, w).transpose(1, 2).contiguous().view(n, 6, h, w)
        return self.last(self.depthwise(y).relu()).mean((2, 3))
