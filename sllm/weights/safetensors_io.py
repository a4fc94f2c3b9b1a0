"""safetensors files as rows on disk: where each tensor lies, read and written in blocks of rows.

With plain reads and not through a map of the file, because every page of a map that was touched counts as
resident memory: the peak would follow the shard. The format is 8 bytes of header length, a JSON header, the data.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from sllm import cli, hashes
from sllm.cli import InputError

BLOCK = 2**24  # elements of one block of rows: 64 MiB in fp32
_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}
_DTYPES |= {"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8}
_DTYPES |= {"BOOL": torch.bool}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
read_json = partial(hashes.read_json, fault="cannot be read as JSON", fix="copy or download it again")


@dataclass(frozen=True)
class TensorRef:
    """A tensor on disk: row-major bytes of `path` from `start` on."""

    path: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def row(self) -> int:
        """Elements of one row; a vector's rows are its elements."""
        return math.prod(self.shape[1:])

    def read(self, first: int = 0, last: int | None = None) -> torch.Tensor:
        """Rows [first, last) in memory of their own."""
        shape = ((self.shape[0] if last is None else last) - first, *self.shape[1:]) if self.shape else ()
        out = torch.empty(shape, dtype=self.dtype)
        target = memoryview(out.view(-1).view(torch.uint8).numpy())
        with open(self.path, "rb", buffering=0) as file:
            file.seek(self.start + first * self.row * self.dtype.itemsize)
            while target:
                count = file.readinto(target)  # at most 2 GiB a call
                if not count:
                    raise InputError(f"{self.path} ended early while it was read; is another process writing it?")
                target = target[count:]
        return out

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Row ranges of at most BLOCK elements (one row at least)."""
        rows = self.shape[0] if self.shape else 1
        step = max(1, BLOCK // max(self.row, 1))
        return ((first, min(first + step, rows)) for first in range(0, rows, step))


def tensors_of(folder: str | Path, stem: str = "model") -> dict[str, TensorRef]:
    """Every tensor of a folder's safetensors, by name.

    Raises:
        InputError: no weights, a shard missing, torn or of an unknown number format, a tensor missing or double.
    """
    folder = Path(folder)
    index, single = folder / f"{stem}.safetensors.index.json", folder / f"{stem}.safetensors"
    # of both, loaders take the single file; hashes.weight_files does too
    weight_map = read_json(index).get("weight_map") if index.is_file() and not single.is_file() else {}
    if not hashes.is_weight_map(weight_map):
        raise InputError(f"{index} has no weight_map of tensors and their files; copy or download it again")
    if not weight_map and not single.is_file():
        raise InputError(f"{folder} has no {single.name}; weights in another format are rewritten by save_pretrained")
    references: dict[str, TensorRef] = {}
    problems = []
    for path in [folder / name for name in sorted(set(weight_map.values()))] or [single]:
        try:
            tensors = _header(path)
        except InputError as error:
            problems += error.problems
            continue
        problems += [f"{path}: {name} is in {references[name].path.name} too" for name in tensors if name in references]
        references |= tensors
    if not problems:
        problems = [f"{index}: {name} is in no shard" for name in weight_map if name not in references]
    if problems:
        raise InputError(cli.shorten(problems))
    return references


def _header(path: Path) -> dict[str, TensorRef]:
    if not path.is_file():
        raise InputError(f"{path} is missing")
    references, sound = {}, True
    try:
        data_start, header = hashes.safetensors_header(path)
        unsupported = sorted({entry["dtype"] for entry in header.values()} - _DTYPES.keys())
        if unsupported:
            names = ", ".join(unsupported)
            raise InputError(f"{path} holds {names}: quantised weights; name the 16-bit base: --base_model")
        for name, entry in header.items():
            first, last = map(int, entry["data_offsets"])
            shape = tuple(map(int, entry["shape"]))
            references[name] = TensorRef(path, _DTYPES[entry["dtype"]], shape, data_start + first)
            sound = sound and references[name].size == last - first
    except (ValueError, TypeError, KeyError):  # no JSON, or not of a safetensors file
        sound = False
    size = path.stat().st_size
    if not sound or max((tensor.start + tensor.size for tensor in references.values()), default=data_start) != size:
        raise InputError(f"{path} is damaged or cut off ({size:,} bytes); copy or download it again")
    return references


def write_file(path: Path, tensors: list[tuple[str, torch.dtype, tuple[int, ...], Iterator[torch.Tensor]]]) -> None:
    """One safetensors file (8 bytes of header length, JSON header, data), each tensor in blocks of rows."""
    header: dict = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, dtype, shape, _ in tensors:
        start, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for *_, blocks in tensors:
            for block in blocks:
                file.write(memoryview(block.contiguous().view(-1).view(torch.uint8).numpy()))
        written = file.tell()
    if written != 8 + len(text) + end:
        raise RuntimeError(f"{path}: {written} bytes were written where the header says {8 + len(text) + end}")
