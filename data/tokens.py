"""Token files: one Arrow IPC record batch, so that reading is mapping memory and copies nothing."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data.artifact import DamagedFile, write_atomically
from data.schemas import tokens_schema

HalfFloats = npt.NDArray[np.float16]
Mask = npt.NDArray[np.bool_]


def write_tokens(
    path: Path, ids: Sequence[str], array: HalfFloats, mask: Mask | None = None, checked: bool = False
) -> Path:
    """Write the tokens of N images whole.

    Args:
        path: the file, usually `tokens.arrow`.
        ids: N image ids, ascending and distinct.
        array: (N, T, D) float16; a memory-mapped array is streamed.
        mask: (N, T), True where a token counts, for images of unequal token counts; None where all count.
        checked: put a checksum into the name, for a file that nothing seals; `data.artifact.refuse_other_bytes`.

    Returns:
        The file; `path` unless `checked`.

    Raises:
        ValueError: if the shapes, the type or the order of the ids are not these.
    """
    if array.ndim != 3 or array.dtype != np.float16:
        raise ValueError(f"tokens must be (N, T, D) float16, got shape {array.shape} of {array.dtype}")
    if len(ids) != len(array):
        raise ValueError(f"{len(ids)} ids for {len(array)} token sets")
    if mask is not None and (mask.shape != array.shape[:2] or mask.dtype != np.bool_):
        raise ValueError(f"the mask must be {array.shape[:2]} bool, got {mask.shape} {mask.dtype}")
    for before, after in itertools.pairwise(ids):
        if before >= after:
            raise ValueError(f"image ids must ascend without repeats, got {before!r} before {after!r}")
    schema = tokens_schema(array.shape[1], array.shape[2], mask is not None)
    flat = np.ascontiguousarray(array).reshape(-1)
    values = pa.Array.from_buffers(pa.float16(), len(flat), [None, pa.py_buffer(flat)])
    columns = [
        pa.array(ids, type=pa.string()),
        pa.FixedSizeListArray.from_arrays(values, type=schema.field("tokens").type),
    ]
    if mask is not None:
        flags = pa.array(mask.reshape(-1), pa.bool_())
        columns.append(pa.FixedSizeListArray.from_arrays(flags, type=schema.field("mask").type))
    batch = pa.record_batch(columns, schema=schema)

    def write(temporary: Path) -> None:
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            writer.write_batch(batch)

    return write_atomically(path, write, checked)


def read_tokens(path: Path) -> tuple[list[str], HalfFloats]:
    """Read a token file: image ids and a read-only, memory-mapped (N, T, D) float16 array.

    Raises:
        FileNotFoundError: if there is no such file.
        DamagedFile: if it is not a token file.
        ValueError: if it is one with unequal token counts.
    """
    ids, array, mask = read_token_sets(path)
    if mask is not None:
        raise ValueError(f"{path} has images of unequal token counts; here every image needs the same number")
    return ids, array


def read_token_sets(path: Path) -> tuple[list[str], HalfFloats, Mask | None]:
    """As `read_tokens`, for files with unequal token counts too: ids, (N, T, D) tokens, and (N, T) mask or None.

    The mask says which tokens count; it is a copy, the tokens are memory-mapped.
    """
    batch, tokens, dim = _batch(path)
    column = batch.column("tokens")
    start = column.offset * tokens * dim
    flat = np.frombuffer(
        column.values.buffers()[1], dtype=np.float16, count=len(column) * tokens * dim, offset=start * 2
    )
    mask = None
    if "mask" in batch.schema.names:
        mask = batch.column("mask").flatten().to_numpy(zero_copy_only=False).reshape(len(column), tokens)
    return batch.column("image_id").to_pylist(), flat.reshape(len(column), tokens, dim), mask


def tokens_shape(path: Path) -> tuple[int, int, int]:
    """(N, T, D) of a token file, without reading tokens; errors as of `read_tokens`."""
    batch, tokens, dim = _batch(path)
    return batch.num_rows, tokens, dim


def _batch(path: Path) -> tuple[pa.RecordBatch, int, int]:
    """The one record batch of a token file, T and D."""
    if not path.is_file():
        raise FileNotFoundError(f"no token file at {path}")
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path), "r"))
        batches = reader.num_record_batches
        batch = reader.get_batch(0) if batches == 1 else None
        if batch is not None:
            batch.validate()
            batch.column(0).validate(full=True)  # the ids; any value of a token is a number
        found = f"{batches} record batches of\n{reader.schema}"
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk or the process, not of the file
        raise DamagedFile(f"{path} is not an Arrow IPC file: {error}", path) from error
    metadata = reader.schema.metadata or {}
    sizes = (metadata.get(name, b"0") for name in (b"tokens", b"dim"))
    tokens, dim = (int(size) if size.isdigit() else 0 for size in sizes)
    known = () if tokens < 1 or dim < 1 else (tokens_schema(tokens, dim), tokens_schema(tokens, dim, masked=True))
    if batch is None or reader.schema not in known:
        raise DamagedFile(f"{path} is not a token file: {found}", path)
    return batch, tokens, dim
