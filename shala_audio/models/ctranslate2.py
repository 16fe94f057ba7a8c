"""Read a model file of CTranslate2 (binary version 6), without CTranslate2.

The layout, little-endian: version (u32), name of the specification (u16 length with its zero byte, then bytes), its
revision (u32), number of arrays (u32). Then each array: name (as above), rank (u8), dimensions (u32 each), type (u8:
0 float32, 1 int8, 2 int16, 3 int32, 4 float16), number of bytes (u32), bytes. Then aliases: number (u32), pairs of names.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}


def read_arrays(path: Path) -> dict[str, NDArray]:
    """Every named array of the file, aliases included.

    Raises:
        ValueError: not a file of binary version 6, or it ends too soon.
    """
    data = path.read_bytes()
    position = 0

    def take(layout: str) -> int:
        nonlocal position
        (value,) = struct.unpack_from("<" + layout, data, position)
        position += struct.calcsize("<" + layout)
        return value

    def take_name() -> str:
        nonlocal position
        length = take("H")
        name = data[position : position + length].rstrip(b"\0").decode()
        position += length
        return name

    try:
        if (version := take("I")) != 6:
            raise ValueError(f"{path.name}: binary version {version}, 6 is needed")
        take_name()
        take("I")
        arrays: dict[str, NDArray] = {}
        for _ in range(take("I")):
            name = take_name()
            shape = [take("I") for _ in range(take("B"))]
            dtype = DTYPES[take("B")]
            size = take("I")
            if position + size > len(data):
                raise ValueError(f"{path.name}: not a CTranslate2 model, or cut short (at {name})")
            arrays[name] = np.frombuffer(data, dtype, size // np.dtype(dtype).itemsize, position).reshape(shape)
            position += size
        for _ in range(take("I")):
            alias = take_name()
            arrays[alias] = arrays[take_name()]
    except (struct.error, KeyError, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name}: not a CTranslate2 model, or cut short ({error!r})") from None
    return arrays
