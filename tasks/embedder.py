"""InstructCIR's embedder: which multimodal language model, and how it becomes one in two trainings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from data.artifact import Artifact, Counts, write_json, write_table
from data.config import StageConfig
from data.keys import digest
from data.schemas import IMAGES, TRIPLETS
from models.checkpoints import resolve
from models.encoders import MLLMS, TrainableEncoder
from models.terms import Term
from tasks.auto import tower_dtype
from tasks.caption import CAPTIONS
from tasks.stage import stage
from tasks.templates import template_digests, template_sets
from tasks.train import Described, TrainConfig

Part = Literal["tower", "adapter", "language"]


class EmbedderConfig(StageConfig):
    """The model that becomes an embedder."""

    checkpoint: str = Field(
        "tiny_llava",
        description=f"a shipped checkpoint, a folder, or a Hugging Face id, of type {', '.join(MLLMS)}; phi3_v runs"
        " only with code of its own, which CIRQUE_TRUST_REMOTE_CODE has to allow",
    )
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto", description="of the vision tower; auto: float16 where there is a GPU, else float32"
    )


def embedder_facts(config: EmbedderConfig) -> dict[str, Any]:
    """What the key has to know: the weights behind the checkpoint's name, and the dtype behind "auto"."""
    return {"weights": resolve(config.checkpoint).revision, "dtype": tower_dtype(config.dtype)}


@stage(version=1, facts=embedder_facts)
def embedder(out: Path, config: EmbedderConfig) -> Counts:
    """Look whether the checkpoint can become an embedder; write embedder.json, what it is.

    Raises:
        ValueError: if it is no model of a type that can embed.
        PermissionError: if it runs only with code of its own, and the user has not allowed that.
    """
    from models.encoders.remote_code import published_config, trusted_code

    located = resolve(config.checkpoint)
    revision = None if located.local else located.revision
    found = published_config(located.path_or_id, revision)
    kind = found.get("model_type")
    if kind not in MLLMS:
        raise ValueError(
            f"checkpoint {config.checkpoint} is of type {kind!r}; an embedder is made of {', '.join(MLLMS)}"
        )
    if kind == "phi3_v":  # better now than after hours of the stages between
        trusted_code(located.path_or_id, revision, found)
    write_json(out / "embedder.json", {"checkpoint": config.checkpoint, "type": kind})
    return Counts(read=1, kept=1, written=1, detail={"type": kind})


class Lora(StageConfig):
    """Low-rank matrices beside the linear layers; InstructCIR's numbers."""

    on: bool = Field(True, description="off: all weights of the trained parts themselves")
    rank: PositiveInt = 64
    alpha: PositiveFloat = Field(16.0, description="their product is scaled by alpha / rank")
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class EmbedderTrain(TrainConfig):
    """How an MLLM is trained; InstructCIR's numbers, and ours where it gives none: the temperature."""

    epochs: PositiveInt = Field(1, description="times that every triplet is seen")
    batch_size: Annotated[int, Field(ge=2, description="triplets per step; the others' texts are negatives")] = 64
    learning_rate: PositiveFloat = Field(2e-5, description="the highest; AdamW")
    warmup: Annotated[float, Field(ge=0, lt=1, description="share of the steps in which the rate rises")] = 0.03
    weight_decay: NonNegativeFloat = 0.0
    temperature: PositiveFloat = Field(0.05, description="divides the cosines; the start, if it is learned")
    max_text_tokens: PositiveInt | None = Field(512, description="a turn is cut here, its image counted as one token")
    lora: Lora = Lora()
    parts: Annotated[tuple[Part, ...], Field(min_length=1)] = Field(
        ("tower", "adapter", "language"), description="what is trained; a frozen tower runs once over the images"
    )
    templates: Literal["varied", "fixed"] = Field(
        "varied", description="varied: each text draws what is said around it; fixed: always the first"
    )
    resolution: Literal["fixed", "dynamic"] | None = Field(
        None, description="fixed: every image one square; dynamic: in its shape (Qwen) or with its halves (LLaVA)"
    )
    image_tokens: PositiveInt | None = Field(None, description="vectors of an image at most, for Qwen; none: 256")

    def facts(self) -> dict[str, Any]:
        return {"templates": template_digests()}

    def described(self) -> Described:
        trained = f"its {', '.join(self.parts)}" + (" through LoRA, merged into the weights" if self.lora.on else "")
        return Described(
            "multimodal-embedding",
            (
                "A multimodal language model that Cirque made an embedder, as InstructCIR does: its last hidden state",
                f"at an appended [EOS], L2-normalised. Trained: {trained}.",
            ),
            (
                "- The weights are in the format of the base's class in Hugging Face's transformers. What is said",
                "  around images and texts is in `cirque.json`; Cirque's docs/instruct_cir.md says how they are read.",
            ),
        )

    def prepare(self, encoder: TrainableEncoder) -> None:
        from models.encoders.mllm import MllmEncoder

        if not isinstance(encoder, MllmEncoder):
            raise ValueError("this training is of a multimodal language model; name one with embedder.checkpoint")
        super().prepare(encoder)
        encoder.show(self.resolution, self.image_tokens)
        sets = template_sets()
        encoder.use(sets[0])
        encoder.variety = sets if self.templates == "varied" else ()
        lora = self.lora
        rank = lora.rank if lora.on else None
        encoder.prepare(self.parts, rank=rank, alpha=lora.alpha, dropout=lora.dropout)


class Align(EmbedderTrain):
    """The first stage: images and captions find each other; all parts are trained."""

    losses: Annotated[tuple[Term, ...], Field(min_length=1)] = Field(("image_caption",), description="summed")
    directions: Literal["one", "both"] = Field("both", description="both: captions also look for their images")
    hard_negatives: NonNegativeInt = Field(
        1, description="wrong captions of each image that are negatives: its modified caption, or a foil of its source"
    )


class Instruct(EmbedderTrain):
    """The second stage: an image with an instruction finds the modified caption; only the language model is trained."""

    losses: Annotated[tuple[Term, ...], Field(min_length=1)] = Field(("composed_text",), description="summed")
    hard_negatives: NonNegativeInt = Field(1, description="1: the caption as it was is a negative; 0: it is none")
    parts: Annotated[tuple[Part, ...], Field(min_length=1)] = Field(("language",), description="what is trained")


class DescribeConfig(StageConfig):
    """Nothing decides but images and captions."""


@stage(version=1)
def describe(out: Path, config: DescribeConfig, images: Artifact, captions: Artifact | None = None) -> Counts:
    """Write triplets.parquet for the first stage alone: an image, its caption and, from sources that have them, a foil.

    They have no modification. An image that came with no caption has that of `captions`; without either it is dropped.
    """
    table = images.read(IMAGES, "images.parquet")
    written = {} if captions is None else _written(captions)
    rows = []
    for image in table.to_pylist():
        caption = " ".join((image["caption"] or "").split()) or written.get(image["image_id"])
        if caption is not None:
            rows.append(_pair(image["image_id"], caption, image.get("foil")))
    rows.sort(key=lambda row: str(row["triplet_id"]))
    write_table(out / "triplets.parquet", pa.Table.from_pylist(rows, schema=TRIPLETS), TRIPLETS)
    lost = len(table) - len(rows)
    return Counts(
        read=len(table),
        kept=len(rows),
        dropped={"no_caption": lost} if lost else {},
        written=len(rows),
        detail={"foils": sum(row["target_text"] is not None for row in rows)},
    )


def _written(captions: Artifact) -> dict[str, str]:
    return {row["image_id"]: row["caption"] for row in captions.read(CAPTIONS, "captions.parquet").to_pylist()}


def _pair(image_id: str, caption: str, foil: str | None) -> Mapping[str, Any]:
    nobody = {"model": "", "revision": "", "prompt_digest": "", "caption_prompt_digest": "", "request_ids": []}
    return {
        **dict.fromkeys(TRIPLETS.names),
        "triplet_id": digest(["described", image_id])[:32],
        "reference_id": image_id,
        "modification": "",
        "reference_caption": caption,
        "target_text": foil,
        "recipe": "instruct_cir",
        "provenance": nobody,
    }
