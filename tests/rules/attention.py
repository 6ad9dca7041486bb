"""Cases of the rules in `rules/attention.py`: products of tensors, softmax, attention."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.rules.case import Case, calls, vector

TOKENS = (5, 3)
HEADS, WIDTH = 3, 4
C = HEADS * WIDTH
INNER = (WIDTH, WIDTH) * HEADS
"""Sizes of a head's inner groups: channels of q and k in pairs, channels of v."""


def split_heads(y: Tensor) -> Tensor:
    return y.view(*y.shape[:2], HEADS, WIDTH).transpose(1, 2)


def join_heads(y: Tensor) -> Tensor:
    return y.transpose(1, 2).flatten(2)


def attention(run, **members: nn.Module | Tensor):
    """Build `run(self, q, k, v)`, split in heads, between linear maps to q, k, v and from heads."""
    # A bias of the keys adds the same to all scores of a query, which softmax does not see.
    qkv = {name: nn.Linear(3, C, bias=name != "k") for name in "qkv"}
    return calls(
        lambda self, x: self.out(
            join_heads(run(self, *(split_heads(layer(x)) for layer in (self.q, self.k, self.v))))
        ),
        **qkv,
        **members,
        out=nn.Linear(C, 4),
    )


def by_hand(_, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q * 0.5 @ k.transpose(-2, -1)).softmax(-1) @ v


def with_bias(self: nn.Module, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    bias = self.table[torch.arange(25) % 7].view(5, 5, HEADS).permute(2, 0, 1)[None]
    return (q @ k.mT + bias).softmax(-1) @ v


def talking(self: nn.Module, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = self.talk((q @ k.mT).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return scores.softmax(-1) @ v


def normalised(self: nn.Module, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(self.norm(q), k, v)


def cosine(self: nn.Module, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT
    return (scores * self.scale.exp()).softmax(-1) @ v


def rotated(_, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Rotate pairs of channels by the token's place."""
    angle = torch.arange(5.0).double()[:, None] * torch.tensor([1.0, 0.1, 1.0, 0.1])
    q, k = (
        y * angle.cos() + torch.cat([-y[..., 2:], y[..., :2]], -1) * angle.sin() for y in (q, k)
    )
    return F.scaled_dot_product_attention(q, k, v)


def masked(self: nn.Module, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask)


def linear_attention(_, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Mix channels by their products over tokens: queries and values have no partner."""
    return q.relu() @ (k.relu().mT @ v)


def channel_attention(_, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend from channels to channels of a head."""
    return ((q.mT @ k).softmax(-1) @ v.mT).mT


def mixed_with(equation: str, *shape: int):
    """Multiply tokens of 6 channels by a matrix that is a parameter."""
    return calls(
        lambda self, x: self.out(torch.einsum(equation, self.first(x), self.matrix)),
        first=nn.Linear(3, 6),
        matrix=vector(*shape),
        out=nn.Linear(5, 4),
    )


def in_module(batch_first: bool):
    def run(self: nn.Module, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.out(self.attention(y, y, y, need_weights=False)[0])

    module = nn.MultiheadAttention(C, HEADS, batch_first=batch_first)
    return calls(run, first=nn.Linear(3, C), attention=module, out=nn.Linear(C, 4))


def case(run, *, sizes: tuple[int, ...] = (*INNER, HEADS), **members: nn.Module | Tensor) -> Case:
    return Case(attention(run, **members), sizes, TOKENS)


MOVING = {
    "attention by hand": case(by_hand),
    "attention": case(lambda _, q, k, v: F.scaled_dot_product_attention(q, k, v)),
    "attention with a mask": case(masked, mask=vector(5, 5)),
    "attention with a mask per head": case(masked, mask=vector(HEADS, 1, 5)),
    "attention with a table of biases": case(with_bias, table=vector(7, HEADS)),
    "attention of cosines": case(cosine, scale=vector(HEADS, 1, 1)),
    "attention with talking heads": case(
        talking, talk=nn.Linear(HEADS, HEADS, bias=False), sizes=(*(WIDTH,) * HEADS, HEADS) * 2
    ),
    "attention with a norm over a head": case(
        normalised, norm=nn.LayerNorm(WIDTH), sizes=(*(WIDTH,) * HEADS, WIDTH, HEADS)
    ),
    "attention that rotates": case(rotated, sizes=(*(WIDTH,) * HEADS, HEADS)),
    "linear attention": case(linear_attention),
    "attention of channels": case(channel_attention, sizes=(*(WIDTH,) * 6, HEADS)),
    "attention as a module": Case(in_module(True), (C, *INNER, HEADS, C), TOKENS),
    "attention as a module, tokens first": Case(in_module(False), (C, *INNER, HEADS, C), TOKENS),
    "product with a matrix": Case(
        calls(
            lambda self, x: self.out(self.first(x) @ self.matrix),
            first=nn.Linear(3, 6),
            matrix=vector(6, 5),
            out=nn.Linear(5, 4),
        ),
        (6, 5),
        TOKENS,
    ),
    "einsum": Case(mixed_with("btc, cd -> btd", 6, 5), (6, 5), TOKENS),
    "einsum, implicit": Case(mixed_with("...c,cd", 6, 5), (6, 5), TOKENS),
    "softmax over blocks of channels": Case(
        calls(
            lambda self, x: self.out(self.first(x).unflatten(-1, (2, 3)).softmax(-1).flatten(-2)),
            first=nn.Linear(3, 6),
            out=nn.Linear(6, 4),
        ),
        (3, 3, 2),
        TOKENS,
    ),
}

PINNED = {
    "diagonal": Case(
        calls(
            lambda self, x: self.out(torch.einsum("bii->bi", self.first(x))),
            first=nn.Linear(3, 5),
            out=nn.Linear(5, 4),
        ),
        shape=TOKENS,
        pinned_by="takes a diagonal",
    ),
}
