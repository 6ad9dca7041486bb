"""Damage to files: by chance, by a broken copy, by someone who edits what they declare."""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Callable

Mutation = Callable[[bytes, random.Random], bytes]
LARGE = (0, 1, 2**31 - 1, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**64 - 1)
"""What a size or an offset may be declared to be."""
WORDS = (
    *("-1", "0", "99999999999999999999", "1e999", "null", "true", "[]", "{}", '""', "NaN"),
    *("[" * 20_000, '"\\ud800"', "18446744073709551615", "4294967296", '"../../etc/passwd"'),
)
"""What a number in a text may be replaced by."""


def flip_bits(data: bytes, draw: random.Random) -> bytes:
    """Flip one to eight bits."""
    raw = bytearray(data)
    for _ in range(draw.randint(1, 8) if raw else 0):
        raw[_place(raw, draw)] ^= 1 << draw.randrange(8)
    return bytes(raw)


def truncate(data: bytes, draw: random.Random) -> bytes:
    """Leave out the end."""
    return data[: draw.randrange(len(data) + 1)]


def extend(data: bytes, draw: random.Random) -> bytes:
    """Add noise, zeros, or the file itself at the end."""
    noise = draw.randbytes(draw.randint(1, 4096))
    return data + draw.choice([noise, bytes(len(noise)), data])


def overwrite(data: bytes, draw: random.Random) -> bytes:
    """Write noise, zeros or ones over a stretch."""
    start, stop = _stretch(data, draw)
    length = stop - start
    patch = draw.choice([draw.randbytes(length), bytes(length), b"\xff" * length])
    return data[:start] + patch + data[stop:]


def remove(data: bytes, draw: random.Random) -> bytes:
    """Leave out a stretch."""
    start, stop = _stretch(data, draw)
    return data[:start] + data[stop:]


def repeat(data: bytes, draw: random.Random) -> bytes:
    """Put a stretch of the file in at another place."""
    start, stop = _stretch(data, draw)
    place = draw.randrange(len(data) + 1)
    return data[:place] + data[start:stop] + data[place:]


def declare(data: bytes, draw: random.Random) -> bytes:
    """Write a large number over four or eight bytes, as a size that is declared."""
    form = draw.choice(["<I", "<Q", ">I", ">Q"])
    limit = 2 ** (8 * struct.calcsize(form)) - 1
    number = struct.pack(form, min(draw.choice(LARGE), limit))
    place = _place(data, draw) if draw.random() < 0.8 else 0
    return data[:place] + number + data[place + len(number) :]


def edit_text(data: bytes, draw: random.Random) -> bytes:
    """Replace a number in what looks like text by another one, or by what is none."""
    numbers = list(re.finditer(rb"\d+", data[: 2**16]))
    if not numbers:
        return flip_bits(data, draw)
    found = draw.choice(numbers)
    return data[: found.start()] + draw.choice(WORDS).encode() + data[found.end() :]


def edit_header(data: bytes, draw: random.Random) -> bytes:
    """Replace a number in a safetensors header, whose length is set to fit again."""
    if len(data) < 8:
        return edit_text(data, draw)
    length = struct.unpack("<Q", data[:8])[0]
    if not 0 < length <= len(data) - 8:
        return edit_text(data, draw)
    header = edit_text(data[8 : 8 + length], draw)
    return struct.pack("<Q", len(header)) + header + data[8 + length :]


def replace_all(data: bytes, draw: random.Random) -> bytes:
    """Put something else in the file's place."""
    length = draw.randint(0, 2 * len(data) + 1)
    return draw.choice([b"", draw.randbytes(length), bytes(length), b"not what you expect\n"])


MUTATIONS: dict[str, Mutation] = {
    mutation.__name__: mutation
    for mutation in (
        *(flip_bits, truncate, extend, overwrite, remove, repeat),
        *(declare, edit_text, edit_header, replace_all),
    )
}


def mutate(data: bytes, draw: random.Random) -> tuple[str, bytes]:
    """Return the name of a random mutation and what it makes of a file; sometimes of two."""
    name = draw.choice(list(MUTATIONS))
    mutant = MUTATIONS[name](data, draw)
    if draw.random() < 0.25:
        second = draw.choice(list(MUTATIONS))
        name, mutant = f"{name}+{second}", MUTATIONS[second](mutant, draw)
    return name, mutant


def _place(data: bytes | bytearray, draw: random.Random) -> int:
    """Return a place, half of the time near the start or the end, where headers are."""
    if not data:
        return 0
    near = min(len(data), 512)
    places = (draw.randrange(len(data)), draw.randrange(near), len(data) - 1 - draw.randrange(near))
    return draw.choice([places[0], places[0], places[1], places[2]])


def _stretch(data: bytes, draw: random.Random) -> tuple[int, int]:
    start = _place(data, draw)
    return start, min(len(data), start + draw.choice([1, 8, 64, 512, len(data)]))
