"""Token files: one Arrow IPC record batch, so that reading is mapping memory and copies nothing."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data.artifact import write_atomically
from data.schemas import tokens_schema

HalfFloats = npt.NDArray[np.float16]


def write_tokens(path: Path, ids: Sequence[str], array: HalfFloats) -> None:
    """Write the tokens of N images whole.

    Args:
        path: the file, usually `tokens.arrow`.
        ids: N image ids, ascending and distinct.
        array: (N, T, D) float16; a memory-mapped array is streamed.

    Raises:
        ValueError: if the shapes, the type or the order of the ids are not these.
    """
    if array.ndim != 3 or array.dtype != np.float16:
        raise ValueError(f"tokens must be (N, T, D) float16, got shape {array.shape} of {array.dtype}")
    if len(ids) != len(array):
        raise ValueError(f"{len(ids)} ids for {len(array)} token sets")
    for before, after in itertools.pairwise(ids):
        if before >= after:
            raise ValueError(f"image ids must ascend without repeats, got {before!r} before {after!r}")
    schema = tokens_schema(array.shape[1], array.shape[2])
    flat = np.ascontiguousarray(array).reshape(-1)
    values = pa.Array.from_buffers(pa.float16(), len(flat), [None, pa.py_buffer(flat)])
    column = pa.FixedSizeListArray.from_arrays(values, type=schema.field("tokens").type)
    batch = pa.record_batch([pa.array(ids, type=pa.string()), column], schema=schema)

    def write(temporary: Path) -> None:
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            writer.write_batch(batch)

    write_atomically(path, write)


def read_tokens(path: Path) -> tuple[list[str], HalfFloats]:
    """Read a token file: image ids and a read-only, memory-mapped (N, T, D) float16 array.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a token file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no token file at {path}")
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path), "r"))
        batches = reader.num_record_batches
        batch = reader.get_batch(0) if batches == 1 else None
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is not an Arrow IPC file: {error}") from error
    metadata = reader.schema.metadata or {}
    tokens, dim = (int(metadata.get(name, b"0")) for name in (b"tokens", b"dim"))
    if batch is None or tokens < 1 or dim < 1 or not reader.schema.equals(tokens_schema(tokens, dim)):
        raise ValueError(f"{path} is not a token file: {batches} record batches of\n{reader.schema}")
    column = batch.column("tokens")
    buffer = column.values.buffers()[1]
    start = column.offset * tokens * dim
    flat = np.frombuffer(buffer, dtype=np.float16, count=len(column) * tokens * dim, offset=start * 2)
    return batch.column("image_id").to_pylist(), flat.reshape(len(column), tokens, dim)
