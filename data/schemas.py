"""The contract between stages: Arrow schemas, strict in names, types and nullability.

Rows are ordered by their id. Lists name their child `element`, because Parquet does and a strict comparison would
otherwise fail after one round trip.
"""

import pyarrow as pa


def _column(name: str, kind: pa.DataType, nullable: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=nullable)


def _strings() -> pa.DataType:
    return pa.list_(_column("element", pa.string()))


IMAGES = pa.schema(
    [
        _column("image_id", pa.string()),
        _column("uri", pa.string()),  # a file or a stretch of one (data/places.py), absolute or within the artifact
        _column("width", pa.int32()),
        _column("height", pa.int32()),
        _column("sha256", pa.string()),  # of the bytes as found, or what the source says of the original's bytes
        _column("label", pa.string(), nullable=True),  # ImageNet's wnid, else the source's name of the class
        _column("caption", pa.string(), nullable=True),
        _column("foil", pa.string(), nullable=True),  # a caption that is wrong in one word: a text hard negative
        _column("url", pa.string(), nullable=True),  # where the picture was downloaded from
        _column("stored_sha256", pa.string(), nullable=True),  # of the bytes at uri, where sha256 is not theirs
    ]
)

RANKING = pa.schema(
    [
        _column("reference_id", pa.string()),
        _column("rank", pa.int32()),  # from 1; the reference itself has none
        _column("candidate_id", pa.string()),
        _column("score", pa.float32()),  # higher is closer
    ]
)

PAIRS = pa.schema(
    [
        _column("pair_id", pa.string()),
        _column("reference_id", pa.string()),
        _column("target_id", pa.string()),
        _column("rank", pa.int32()),
        _column("score", pa.float32()),
        _column("view", pa.string()),
    ]
)

_PROVENANCE = pa.struct(
    [
        _column("model", pa.string()),
        _column("revision", pa.string()),
        _column("prompt_digest", pa.string()),
        _column("caption_prompt_digest", pa.string()),
        _column("request_ids", _strings()),
    ]
)

TRIPLETS = pa.schema(
    [
        _column("triplet_id", pa.string()),
        _column("pair_id", pa.string(), nullable=True),
        _column("view", pa.string(), nullable=True),
        _column("reference_id", pa.string()),
        _column("modification", pa.string()),
        _column("edit_type", pa.string(), nullable=True),
        _column("style", pa.string(), nullable=True),
        _column("target_id", pa.string(), nullable=True),
        _column("target_text", pa.string(), nullable=True),
        _column("reference_caption", pa.string(), nullable=True),
        _column("target_caption", pa.string(), nullable=True),
        _column("rank", pa.int32(), nullable=True),
        _column("score", pa.float32(), nullable=True),
        _column("negative_ids", _strings(), nullable=True),
        _column("negative_texts", _strings(), nullable=True),
        _column("recipe", pa.string()),
        _column("provenance", _PROVENANCE),
    ]
)

GENERATIONS = pa.schema(
    [
        _column("request_id", pa.string()),
        _column("prompt", pa.string()),  # the prompt's name
        _column("prompt_digest", pa.string()),
        _column("model", pa.string()),
        _column("revision", pa.string()),
        _column("rendered", pa.string()),
        _column("image_ids", _strings()),
        _column("raw_response", pa.string()),
        _column("finish_reason", pa.string()),
        _column("tokens_in", pa.int32()),
        _column("tokens_out", pa.int32()),
        _column("attempt", pa.int32()),
        _column("rejected", pa.string(), nullable=True),  # the reason, or null for an answer that was used
    ]
)

REJECTED = pa.schema(
    [
        _column("row_id", pa.string()),
        _column("stage", pa.string()),
        _column("reason", pa.string()),
        _column("detail", pa.string()),  # the raw response, the file's error
    ]
)

VERDICTS = pa.schema(
    [
        _column("triplet_id", pa.string()),
        _column("filter", pa.string()),
        _column("value", pa.float64(), nullable=True),  # null where there was nothing to measure
        _column("threshold", pa.float64()),
        _column("kept", pa.bool_()),
        _column("reason", pa.string(), nullable=True),  # of a dropped one the filter, else why there is no value
    ]
)

PREDICTIONS = pa.schema(
    [
        _column("method", pa.string()),
        _column("benchmark", pa.string()),
        _column("seed", pa.int32(), nullable=True),
        _column("query_id", pa.string()),
        _column("rank", pa.int32()),
        _column("image_id", pa.string()),
        _column("score", pa.float32()),
    ]
)

SCORES = pa.schema(
    [
        _column("method", pa.string()),
        _column("benchmark", pa.string()),
        _column("split", pa.string()),
        _column("protocol", pa.string()),  # canonical JSON
        _column("metric", pa.string()),
        _column("value", pa.float64()),  # percent, mean over the seeds
        _column("low", pa.float64()),  # ends of the 95 % bootstrap interval
        _column("high", pa.float64()),
        _column("queries", pa.int32()),
        _column("seeds", pa.int32()),
    ]
)

VALUES = pa.schema(
    [
        _column("method", pa.string()),
        _column("benchmark", pa.string()),
        _column("seed", pa.int32(), nullable=True),
        _column("metric", pa.string()),
        _column("query_id", pa.string()),
        _column("tags", _strings()),
        _column("value", pa.float32()),  # what one answer is worth, in [0, 1]
    ]
)

TESTS = pa.schema(
    [
        _column("benchmark", pa.string()),
        _column("metric", pa.string()),
        _column("method", pa.string()),
        _column("other", pa.string()),
        _column("difference", pa.float64()),  # points: of the method's mean over queries and seeds, less the other's
        _column("p", pa.float64()),  # two-sided, of "they are equal", by signs of the queries' differences
        _column("queries", pa.int32()),
    ]
)


def tokens_schema(tokens: int, dim: int, masked: bool = False) -> pa.Schema:
    """Schema of an Arrow IPC file that holds `tokens` vectors of `dim` half floats per image, row-major.

    With `masked`, a third column says of each token whether it counts; without it all do.
    """
    if tokens < 1 or dim < 1:
        raise ValueError(f"need at least one token of one dimension, got tokens={tokens}, dim={dim}")
    values = pa.list_(_column("element", pa.float16()), tokens * dim)
    columns = [_column("image_id", pa.string()), _column("tokens", values)]
    if masked:
        columns.append(_column("mask", pa.list_(_column("element", pa.bool_()), tokens)))
    return pa.schema(columns, metadata={"tokens": str(tokens), "dim": str(dim)})
