"""The card of an exported data set: what it holds, who wrote it with which words, and what became of every row."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, Literal

import pyarrow as pa
from jinja2 import Environment, FileSystemLoader, StrictUndefined

import prompts
from data.artifact import Artifact
from models.checkpoints import HUB_ID, WEIGHTS_OF_LAVIS

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
"""How a column of pictures is stored."""

COLUMNS = {
    "triplet_id": "stable id; texts beyond the first about the same pair end in `-1`, `-2`, ...",
    "pair_id": "stable id of (reference, target, view); null where there is no target image",
    "view": "which similarity found the pair",
    "reference_image": "the image somebody holds",
    "reference_id": "its id among the ingested images",
    "modification": "what is to change, as somebody would type it",
    "edit_type": "kind of change that was asked for; `any`: left to the model",
    "style": "style that was asked for",
    "target_image": "the image to be found, if the recipe has one",
    "target_id": "its id",
    "target_text": "description of the target, if the recipe writes one",
    "reference_caption": "caption of the reference",
    "target_caption": "caption of the target image",
    "rank": "rank of the target among the candidates of the reference, from 1, the reference itself left out",
    "score": "similarity of the pair, higher is closer",
    "negative_ids": "images near the target that are not it; see the configuration `negatives`",
    "negative_texts": "texts near the target text that are not it",
    "recipe": "recipe that made the row",
    "provenance": "model, revision, digests of the prompts, ids of the requests",
    "image_id": "id of an image that is a hard negative of some triplet",
    "image": "that image",
}
# Settings and facts whose texts are paths, or have paths as parts. A checkpoint's name may be a path, too, or an id.
_PATHS = frozenset(("path", "files", "ids", "root", "start", "galleries", "contamination"))
# Where a path begins for certain: "/x", "./x", "../x", "~/x", "~name/x"; at the start of a setting or within it, as in
# "cirr:test1:/x". After "https:" comes no path.
_BEGINS = r"(?:\.{0,2}|~[\w.-]*)/(?=\S)"
_INNER = re.compile(rf"(?<=[:,;+=|\s])(?<!http:)(?<!https:)(?<!hf:)(?<!s3:)(?<!gs:)(?={_BEGINS})")
_PATH, _URL = re.compile(_BEGINS), re.compile(r"(https?|hf|s3|gs)://")
_SIZES = (("n<1K", 10**3), ("1K<n<10K", 10**4), ("10K<n<100K", 10**5), ("100K<n<1M", 10**6), ("1M<n<10M", 10**7))


@dataclass(frozen=True)
class ExportOptions:
    """What goes into a data set.

    Attributes:
        images: "embed" puts the bytes of every file into the rows; "paths" the places of the files on this machine
            (images that are no files are embedded all the same).
        licence: of the texts, one of the hub's names such as cc-by-4.0; None: not stated.
        image_licence: what is to be said about the images; None: that they are their owners'.
        shard_bytes: a Parquet file is closed when its rows come to so much.
        allow_missing: leave out, and count, triplets with an image that cannot be read; otherwise that is an error.
    """

    images: Literal["embed", "paths"] = "embed"
    licence: str | None = None
    image_licence: str | None = None
    shard_bytes: int = 500 * 2**20
    allow_missing: bool = False


@dataclass(frozen=True)
class Part:
    """One configuration of a data set: its folder, columns, rows, bytes of the rows and of the files."""

    folder: str
    schema: pa.Schema
    rows: int
    row_bytes: int
    file_bytes: int


@dataclass
class Exported:
    """What was written.

    Attributes:
        parts: by configuration.
        dropped: triplets that were left out, and negatives, by reason.
    """

    parts: dict[str, Part] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)


def facts_of(artifacts: Sequence[Artifact]) -> dict[str, Any]:
    """What decided an artifact and all it stands on, the last one's recipe first; no place of this machine."""
    stages = [
        {
            **{name: one.manifest[name] for name in ("stage", "version", "key", "counts", "created", "cirque")},
            **{name: _portable(one.manifest[name]) for name in ("config", "facts")},
        }
        for one in artifacts
    ]
    return {"stages": stages}


def features_of(schema: pa.Schema) -> Any:
    """The columns as `datasets.Features`, pictures as `Image`."""
    from datasets import Features, Image  # takes seconds to import

    features = Features.from_arrow_schema(schema)
    for column in schema:
        if column.type == IMAGE:
            features[column.name] = Image()
    return features


def card(facts: Mapping[str, Any], done: Exported, options: ExportOptions) -> str:
    """README.md with the header that the hub and `load_dataset` read."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    writers = [
        one for one in facts["stages"] if {"prompts", "revision"} <= one["facts"].keys() and "model" in one["config"]
    ]
    recipes = [one["config"]["recipe"] for one in facts["stages"] if "recipe" in one["config"]]
    return environment.get_template("card.md.j2").render(
        header=_header(done, options),
        parts=done.parts,
        described=COLUMNS,
        image_columns={column.name for part in done.parts.values() for column in part.schema if column.type == IMAGE},
        dropped=done.dropped,
        options=options,
        stages=facts["stages"],
        writers=writers,
        recipe=recipes[-1] if recipes else facts["stages"][-1]["stage"],
    )


def _header(done: Exported, options: ExportOptions) -> str:
    from datasets import DatasetInfo
    from datasets.info import DatasetInfosDict
    from datasets.splits import SplitDict, SplitInfo
    from huggingface_hub import DatasetCardData

    rows = done.parts["triplets"].rows
    data = DatasetCardData(
        language="en",
        license=options.licence or "unknown",
        pretty_name="Composed image retrieval triplets",
        tags=["composed-image-retrieval", "synthetic"],
        size_categories=next((name for name, most in _SIZES if rows < most), "n>10M"),
        configs=[
            {
                "config_name": name,
                "data_files": [{"split": "train", "path": f"{part.folder}/train-*"}],
                **({"default": True} if name == "triplets" else {}),
            }
            for name, part in done.parts.items()
        ],
    )
    infos = {}
    for name, part in done.parts.items():
        splits = SplitDict()
        splits.add(SplitInfo("train", num_bytes=part.row_bytes, num_examples=part.rows))
        infos[name] = DatasetInfo(
            config_name=name,
            features=features_of(part.schema),
            splits=splits,
            download_size=part.file_bytes,
            dataset_size=part.row_bytes,
        )
    DatasetInfosDict(infos).to_dataset_card_data(data)
    return str(data.to_yaml())


def _portable(value: Any, paths: bool = False) -> Any:
    """Settings, or facts, without the folders of this machine; `paths`: what is no name is a path."""
    if isinstance(value, dict):
        plain: dict[str, Any] = {}
        times = Counter[str]()  # two folders may have one name
        for name, inner in value.items():
            short = _without_folders(name, paths)
            times[short] += 1
            key = short if times[short] == 1 else f"{short} ({times[short]})"
            # A service's names of models may look like paths: accounts/x/models/y, x/y:free.
            served = name == "model" and value.get("backend") == "openai" and not _PATH.match(str(inner))
            plain[key] = inner if served else _portable(inner, paths or name in _PATHS)
        return plain
    if isinstance(value, list):
        return [_portable(inner, paths) for inner in value]
    return _without_folders(value, paths) if isinstance(value, str) else value


def _without_folders(text: str, paths: bool) -> str:
    """A text in which of every path the last name remains. Addresses and Hugging Face ids stay as they are."""
    if text.endswith(WEIGHTS_OF_LAVIS):
        return "+".join(PurePath(part).name for part in text.split("+"))
    return "".join(_shortened(part, paths) for part in _INNER.split(text))


def _shortened(part: str, paths: bool) -> str:
    """The same of a part with at most one path that begins for certain, and that at its start."""
    if _URL.match(part):
        return part
    if _PATH.match(part):
        return PurePath(part).name
    pieces = part.split(":")  # of "cirr:test1:folder/cirr"
    return ":".join(one if _is_name(one, paths or len(pieces) > 1) else PurePath(one).name for one in pieces)


def _is_name(text: str, paths: bool) -> bool:
    """Whether a text with slashes is the name of a prompt, or an id of the hub that no folder here has, too."""
    if "/" not in text:
        return True
    if paths:
        return False
    return (prompts.FOLDER / f"{text}.md").is_file() or bool(HUB_ID.fullmatch(text) and not Path(text).exists())
