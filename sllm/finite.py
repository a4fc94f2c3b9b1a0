"""Weights that are not finite (NaN, infinity): found on disk before a stage works with them.

A single one makes a model answer nonsense, or train to nothing, without an error anywhere. Needs numpy only, and reads
blocks, so that memory stays small whatever the model's size.
"""

import math
from pathlib import Path

from sllm import hashes

BLOCK = 2**20  # bytes read at a time: what a core keeps close
# A number is NaN or infinite where all bits of its exponent are set: (unsigned type, mask) of each safetensors dtype.
_EXPONENTS = {
    "BF16": ("<u2", 0x7F80),
    "F16": ("<u2", 0x7C00),
    "F32": ("<u4", 0x7F800000),
    "F64": ("<u8", 0x7FF0000000000000),
}


def may_be_infinite(shape) -> bool:
    """Is a tensor of this shape a saved constant and no weight? Older versions of GPT-NeoX and GPT-2 saved the value
    that masks attention (`masked_bias`, -1e9), which in float16 is an infinity, and is not used any more."""
    return math.prod(shape) == 1


def problems(folder: str | Path) -> list[str]:
    """A line for each safetensors file of a folder's weights that holds a NaN or an infinity. A large file is read once
    and its answer kept, as its hash is."""
    damaged = []
    for path in (Path(folder) / name for name in hashes.weight_files(folder) if name.endswith(".safetensors")):
        if not path.is_file():
            continue  # somebody else's to report
        name = hashes.remembered(path, "finite", lambda path=path: first_not_finite(path) or "")
        if name:
            damaged.append(
                f"{path}: tensor {name} contains NaN or infinity, so that the model would "
                "answer nonsense; get or make it again"
            )
    return damaged


def first_not_finite(path: str | Path) -> str | None:
    """Name of the first tensor in a safetensors file that holds a NaN or an infinity; None where there is none.

    A file that is not whole is somebody else's to report: what cannot be read is left out.
    """
    import numpy

    try:
        data_start, header = hashes.safetensors_header(Path(path))
    except ValueError:
        return None
    with open(path, "rb") as file:
        for name, tensor in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            if tensor["dtype"] not in _EXPONENTS or may_be_infinite(tensor["shape"]):
                continue  # whole numbers, quantised weights, constants
            kind, mask = _EXPONENTS[tensor["dtype"]]
            first, last = tensor["data_offsets"]
            file.seek(data_start + first)
            for start in range(first, last, BLOCK):
                bits = numpy.frombuffer(file.read(min(BLOCK, last - start)), dtype=kind)
                if ((bits & mask) == mask).any():
                    return name
    return None
