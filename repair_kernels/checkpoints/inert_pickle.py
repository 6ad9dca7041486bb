"""Pickles read as data: nothing is imported, and nothing is called.

A pickle is a program for a small stack machine, some of whose instructions import things and call
them. This machine has no such instructions: what would be called is noted down, as a `Record`.
Memory is bounded by the size of the pickle: values are handed on by reference, never copied.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

PERSISTENT = "persistent"
"""What a record of something outside of the pickle is called; imported names have dots."""
LONGEST_NAME = 1000
_MARK = object()


@dataclass(eq=False)
class Record:
    """What a pickle would have made by a call.

    Attributes:
        name: of what would have been called, such as "torch.Size"
        arguments: what it would have been called with, those by name as a mapping at the end; None
            for the thing itself, uncalled
        state: what its state would have been set to
        items: what would have been put into it; what has a key as a pair
    """

    name: str
    arguments: tuple | None = None
    state: Any = None
    items: list[Any] = field(default_factory=list)


def read_pickle(data: bytes) -> Any:
    """Return what a pickle describes: plain values, and `Record`s for all else.

    Raises:
        ValueError: when it is no pickle, or one of other instructions than data need
    Example:
        >>> import fractions, pickle
        >>> read_pickle(pickle.dumps({"half": fractions.Fraction(1, 2)}))["half"].name
        'fractions.Fraction'
    """
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "STOP":
                return machine.stack.pop()
            machine.step(opcode.name, argument)
    except (IndexError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"a pickle of wrong instructions ({error})") from error
    raise ValueError("a pickle without an end")


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *(
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINBYTES8",
        "BYTEARRAY8",
    ),
}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Machine:
    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _LITERALS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in _TUPLES:
            stack.append(tuple(self._taken(_TUPLES[name])))
        else:
            self._structure(name, argument)

    def _structure(self, name: str, argument: Any) -> None:
        stack = self.stack
        match name:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                stack.append(_MARK)
            case "TUPLE":
                stack.append(tuple(self._marked()))
            case "FROZENSET":
                stack.append(frozenset(self._marked()))
            case "LIST":
                stack.append(self._marked())
            case "DICT":
                stack.append(_paired(self._marked()))
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "APPEND":
                self._put_in([stack.pop()])
            case "APPENDS" | "ADDITEMS":
                self._put_in(self._marked())
            case "SETITEM":
                self._set_in(self._taken(2))
            case "SETITEMS":
                self._set_in(self._marked())
            case "GLOBAL":
                stack.append(Record(argument.replace(" ", ".")))
            case "STACK_GLOBAL":
                stack.append(Record(_joined(self._taken(2))))
            case "REDUCE" | "NEWOBJ":
                called, arguments = self._taken(2)
                if not isinstance(arguments, tuple):
                    raise ValueError("a pickle with arguments that are no tuple")
                stack.append(Record(called.name, arguments))
            case "NEWOBJ_EX":
                called, *arguments = self._taken(3)
                stack.append(Record(called.name, tuple(arguments)))
            case "BINPERSID":
                stack.append(Record(PERSISTENT, (stack.pop(),)))
            case "BUILD":
                state = stack.pop()
                stack[-1].state = state
            case _:
                raise ValueError(f"a pickle with the instruction {name}, which data do not need")

    def _taken(self, count: int) -> list[Any]:
        """Take some values from the top of the stack."""
        if len(self.stack) < count:
            raise ValueError("a pickle that takes what it never put")
        found = self.stack[-count:]
        del self.stack[-count:]
        return found

    def _marked(self) -> list[Any]:
        """Take what lies above the last mark."""
        found: list[Any] = []
        while (value := self.stack.pop()) is not _MARK:
            found.append(value)
        return found[::-1]

    def _put_in(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, set):
            target.update(values)
        elif isinstance(target, Record):
            target.items += values
        else:
            target += values

    def _set_in(self, values: list[Any]) -> None:
        pairs = zip(values[::2], values[1::2], strict=True)
        if isinstance(self.stack[-1], Record):
            self.stack[-1].items += pairs
        else:
            self.stack[-1].update(pairs)


def _joined(names: list[str]) -> str:
    """Return the name of what a module holds; names that were said once may be taken many times."""
    if sum(map(len, names)) > LONGEST_NAME:
        raise ValueError(f"a pickle with a name of more than {LONGEST_NAME} letters")
    return ".".join(names)


def _paired(values: list[Any]) -> dict[Any, Any]:
    return dict(zip(values[::2], values[1::2], strict=True))
