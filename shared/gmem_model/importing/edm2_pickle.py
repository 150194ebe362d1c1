"""Pickles of EDM2's training program, read without executing anything of them.

Such a file holds the network as a Python object together with the source text of its classes, and
asks its reader to execute that text. A pickle acts upon the world only through the *globals* it
names. Here none of them is looked up: a known name stands for a class that records what it was
given, any other is refused. What comes out is a tree of plain values and records; the source text
in it is just text.
"""

from __future__ import annotations

import pickle
import pickletools
from pathlib import Path
from typing import Any, BinaryIO

from gmem_shared.errors import InvalidRequestError

MAX_OPERATIONS = 1_000_000
"""Of the pickle machine; published files take some ten thousand, whatever their size."""


class Record:
    """An object that the file describes: what it is made from, and what it is given then.

    Every class that a file can reach defines ``__setstate__``, or is a built-in one: a file may set
    attributes of all others, and those would outlive its reading.
    """

    __slots__ = ("args", "state")

    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any) -> Record:
        """Record the arguments."""
        record = super().__new__(cls)
        record.args, record.state = args, None
        return record

    def __setstate__(self, state: Any) -> None:
        self.state = state


class Persistent(Record):
    """An object of a class of the file's own.

    Its only argument is a dictionary: ``class_name``, ``module_src``, ``state`` and more.
    """

    __slots__ = ()


class Modules(Record):
    """A ``torch.nn.ModuleDict``."""

    __slots__ = ()


class Parameter(Record):
    """A parameter, made from a tensor."""

    __slots__ = ()


class StoredTensor(Record):
    """A tensor, made from a storage, an offset, sizes, strides and more."""

    __slots__ = ()


class Storage(Record):
    """The values of a tensor, made from bytes that are a file of ``torch.save`` themselves."""

    __slots__ = ()


class Array(Record):
    """A numpy array, or a part of the description of one."""

    __slots__ = ()


_STAND_INS: dict[tuple[str, str], type] = {
    ("collections", "OrderedDict"): dict,
    ("dnnlib.util", "EasyDict"): dict,
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): Persistent,
    ("torch.nn.modules.container", "ModuleDict"): Modules,
    ("torch._utils", "_rebuild_parameter"): Parameter,
    ("torch._utils", "_rebuild_tensor_v2"): StoredTensor,
    ("torch.storage", "_load_from_bytes"): Storage,
    ("numpy", "dtype"): Array,
    ("numpy", "ndarray"): Array,
    ("numpy.core.multiarray", "_reconstruct"): Array,
    ("numpy._core.multiarray", "_reconstruct"): Array,
}


def read_records(path: Path) -> Any:
    """Read a pickle of EDM2's training program as plain values and `Record` objects.

    It takes as much memory as the file is long.

    Raises:
        InvalidRequestError: The file names anything else than such a program writes, or is no
            pickle, or takes more operations or memory than any published one. Nothing was executed.
    """
    if not path.is_file():
        raise InvalidRequestError(f"expected a file at {path}, found none; check the path")
    with path.open("rb") as file:
        try:
            _check_operations(path, file)
            file.seek(0)
            return _Reader(path, file).load()
        except InvalidRequestError:
            raise
        except Exception as error:  # a malformed or hostile pickle may fail in any way
            raise InvalidRequestError(
                f"{path} is refused: expected a whole network snapshot (.pkl) of EDM2, found "
                f"something else or a part of one: {error or type(error).__name__}"
            ) from error


class _Reader(pickle.Unpickler):
    """A pickle machine that knows no globals but `_STAND_INS`."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        super().__init__(file)
        self._path = path

    def find_class(self, module_name: str, global_name: str, /) -> type:
        """Return the stand-in of a global; refuse one that has none."""
        stand_in = _STAND_INS.get((module_name, global_name))
        if stand_in is None:
            raise InvalidRequestError(
                f"{self._path} is refused: expected a network snapshot of EDM2, found the object "
                f"'{module_name}.{global_name}', which could run code; nothing was executed. "
                "Export the weights as safetensors on a machine that may trust the file"
            )
        return stand_in


def _check_operations(path: Path, file: BinaryIO) -> None:
    """Refuse a file that would make the machine work or allocate without end.

    The machine keeps its memo in an array as long as the largest index, whatever little there is in
    it; published files count the index up with the operations.
    """
    for count, (operation, argument, _) in enumerate(pickletools.genops(file)):
        index = argument if operation.name in ("PUT", "BINPUT", "LONG_BINPUT") else 0
        if max(count, index or 0) >= MAX_OPERATIONS:
            raise InvalidRequestError(
                f"{path} is refused: expected a network snapshot of EDM2, found a pickle of more "
                f"than {MAX_OPERATIONS} operations or places"
            )
