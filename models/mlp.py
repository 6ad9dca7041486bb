"""Multilayer perceptrons: linear layers with ReLU between them, nothing else.

    x_{l+1} = relu(W_l x_l + b_l),    logits = W_L x_L + b_L

The logits of layer L have no ReLU.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class MLP(nn.Module):
    """A multilayer perceptron with layers `fc1` ... `fcN`; flattens its input itself.

    Args:
        depth: number of hidden layers.
        width: units of every hidden layer.
        in_features: numbers of one flattened input.
        classes: number of logits.
        bias: whether the layers have biases.
        widths: units of each hidden layer, instead of `depth` and `width`.

    Raises:
        ValueError: when neither or both of `widths` and (`depth`, `width`) are given, or one of
            them is not positive.

    Example:
        >>> [tuple(p.shape) for p in MLP(widths=(400, 200, 100), bias=False).parameters()]
        [(400, 784), (200, 400), (100, 200), (10, 100)]
    """

    def __init__(
        self,
        depth: int | None = None,
        width: int | None = None,
        in_features: int = 784,
        classes: int = 10,
        bias: bool = True,
        *,
        widths: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if (widths is None) == (depth is None or width is None):
            raise ValueError(
                "give either `depth` and `width`, or `widths`, "
                f"got depth={depth}, width={width}, widths={widths}"
            )
        if widths is None:
            if depth < 0 or width < 1:
                raise ValueError(
                    f"`depth` must not be negative and `width` must be positive, "
                    f"got depth={depth}, width={width}"
                )
            widths = (width,) * depth
        if any(w < 1 for w in widths):
            raise ValueError(f"`widths` must be positive, got {tuple(widths)}")
        sizes = (in_features, *widths, classes)
        self.layers = len(sizes) - 1
        for i in range(self.layers):
            layer = nn.Linear(sizes[i], sizes[i + 1], bias=bias)
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
            if bias:
                nn.init.zeros_(layer.bias)
            self.add_module(f"fc{i + 1}", layer)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (n, classes)."""
        x = x.flatten(1)
        for i in range(1, self.layers):
            x = F.relu(self.get_submodule(f"fc{i}")(x))
        return self.get_submodule(f"fc{self.layers}")(x)
