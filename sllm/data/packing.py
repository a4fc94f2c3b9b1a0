"""Packing: sequences that are filled with whole rows, without a copy of the rows' tokens in memory."""

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sllm.data import labels

if TYPE_CHECKING:
    from datasets import Dataset


def pack(dataset: "Dataset", max_length: int, seed: int) -> "Dataset":
    """The rows of `dataset` in random order, packed as `trl.pack_dataset(dataset.shuffle(seed), max_length, "bfd")`
    does it, with `seq_lengths`. A memory-mapped dataset is packed on disk, beside it, and found there by the next run.

    Args:
        dataset: `input_ids` and, as runs, `labels`, with `labels.with_labels` as its transform.
    """
    shuffled = dataset.shuffle(seed=seed).with_format("arrow")
    packed = shuffled.map(_pack, batched=True, fn_kwargs={"max_length": max_length})
    return packed.with_transform(labels.with_labels)


def _pack(rows: pa.Table, max_length: int) -> pa.Table:
    """TRL's packing moves all columns alike, and runs are fewer than tokens: it packs the rows' numbers instead."""
    from trl.data_utils import _pack_bfd

    ids, runs = (rows[name].combine_chunks() for name in ("input_ids", "labels"))
    number: np.ndarray = np.repeat(np.arange(len(rows)), pc.list_value_length(ids))
    offsets = pc.subtract(ids.offsets, ids.offsets[0])
    numbers = pa.ListArray.from_arrays(offsets, pa.array(number, pa.int32()))
    packed = _pack_bfd(pa.table({"input_ids": ids, "row": numbers}), max_length)
    lengths = packed["seq_lengths"].combine_chunks()
    starts = np.cumsum(pc.list_flatten(lengths).to_numpy()) - pc.list_flatten(lengths).to_numpy()
    order = pc.list_flatten(packed["row"]).take(pa.array(starts))
    runs = runs.take(order.combine_chunks())
    first_of_sequence = pc.subtract(lengths.offsets, lengths.offsets[0])
    joined = pa.ListArray.from_arrays(runs.offsets.take(first_of_sequence), runs.values)
    return packed.drop_columns("row").add_column(1, "labels", joined)
