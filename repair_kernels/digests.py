"""Digests of tensors: the same for the same names, shapes, dtypes and bits, wherever they lie."""

import hashlib
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor


def digest_of_text(*texts: str) -> str:
    """Return the SHA-256 of some texts in order, in hexadecimal.

    Example:
        >>> digest_of_text("a", "b") == digest_of_text("ab")
        False
    """
    return _digest(text.encode(errors="surrogatepass") for text in texts)


def digest_of_tensors(tensors: Mapping[str, Tensor], *texts: str) -> str:
    """Return the SHA-256 of tensors by name, whatever their order, and of some texts before them.

    Example:
        >>> x, y = torch.zeros(2), torch.ones(3)
        >>> digest_of_tensors({"x": x, "y": y}) == digest_of_tensors({"y": y, "x": x})
        True
    """

    def pieces() -> Iterable[bytes | memoryview]:
        yield from (text.encode(errors="surrogatepass") for text in texts)
        for name in sorted(tensors):
            tensor = tensors[name]
            yield name.encode(errors="surrogatepass")
            yield f"{tensor.dtype} {tuple(tensor.shape)}".encode()
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            yield flat.view(torch.uint8).numpy().data if flat.numel() else b""

    return _digest(pieces())


def _digest(pieces: Iterable[bytes | memoryview]) -> str:
    """Hash pieces with their lengths, so that no two lists of pieces read the same."""
    total = hashlib.sha256()
    for piece in pieces:
        total.update(len(piece).to_bytes(8, "little"))
        total.update(piece)
    return total.hexdigest()
