"""Multilayer perceptrons: linear layers with ReLU between them, nothing else.

    x_{l+1} = relu(W_l x_l + b_l),    logits = W_L x_L + b_L

The logits of layer L have no ReLU. With BatchNorms,

    x_{l+1} = relu(norm_l(W_l x_l))

which a trained network can put into its layers: `fused`.
"""

import copy
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_linear_bn_eval


class MLP(nn.Module):
    """A multilayer perceptron with layers `fc1` ... `fcN`; flattens its input itself.

    Those without BatchNorms start from He's initialisation with no biases, those with them, whose
    scale only sets how fast they learn, from PyTorch's.

    Args:
        depth: number of hidden layers.
        width: units of every hidden layer.
        in_features: numbers of one flattened input.
        classes: number of logits.
        bias: whether the layers have biases; those that a BatchNorm follows never do.
        widths: units of each hidden layer, instead of `depth` and `width`.
        batch_norm: whether a BatchNorm, `bn1` ..., follows every hidden layer.

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
        batch_norm: bool = False,
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
        self.layers, self.batch_norm = len(sizes) - 1, batch_norm
        for i in range(self.layers):
            normed = batch_norm and i < self.layers - 1
            layer = nn.Linear(sizes[i], sizes[i + 1], bias=bias and not normed)
            if not batch_norm:
                nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
                if bias:
                    nn.init.zeros_(layer.bias)
            self.add_module(f"fc{i + 1}", layer)
            if normed:
                self.add_module(f"bn{i + 1}", nn.BatchNorm1d(sizes[i + 1]))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (n, classes)."""
        x = x.flatten(1)
        for i in range(1, self.layers):
            x = self.get_submodule(f"fc{i}")(x)
            x = F.relu(self.get_submodule(f"bn{i}")(x) if self.batch_norm else x)
        return self.get_submodule(f"fc{self.layers}")(x)

    def fused(self) -> "MLP":
        """Return the MLP without BatchNorms that computes what this one does in evaluation mode.

            W' = g / sqrt(var + eps) W,    b' = b + g / sqrt(var + eps) (bias - mean)

        where g and b are the BatchNorm's weight and bias, mean and var its running statistics.

        Returns:
            a new network in evaluation mode; where there are no BatchNorms, an equal one
        """
        new = copy.deepcopy(self).eval()
        new.batch_norm = False
        for i in range(1, self.layers if self.batch_norm else 1):
            layer, norm = new.get_submodule(f"fc{i}"), new.get_submodule(f"bn{i}")
            new.set_submodule(f"fc{i}", fuse_linear_bn_eval(layer, norm))
            delattr(new, f"bn{i}")
        return new
