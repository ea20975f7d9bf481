"""Train: fine-tune the Q-Former on triplets, once per seed, over features of the vision tower computed once."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Self

import pyarrow as pa
from PIL import Image
from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from data.artifact import Artifact, Counts, read_table, write_table
from data.config import Resources, StageConfig
from data.progress import progress
from models.encoders import TextReading, TrainableEncoder, load_encoder
from models.terms import Similarity, Term
from tasks.auto import training_dtype
from tasks.encode import refuse_half_on_cpu
from tasks.features import Features, FreshFeatures, Picture, Pixels, compute, pictures
from tasks.runs import say
from tasks.stage import NO_FACTS, stage
from tasks.store import home

if TYPE_CHECKING:
    from models.gradients import Processes
    from models.objectives import RetrievalLoss
    from tasks.cards import Origin
    from tasks.examples import Examples, TextTokens
    from tasks.splits import Split
    from tasks.train_together import Job

    Start = Callable[[int], tuple[TrainableEncoder, Examples]]

log = logging.getLogger(__name__)

HISTORY = pa.schema(
    [
        pa.field("seed", pa.int32(), nullable=False),
        pa.field("step", pa.int32(), nullable=False),  # steps taken; row 0 is the base checkpoint
        pa.field("epoch", pa.int32(), nullable=False),  # from 0
        pa.field("loss", pa.float32()),  # nats, of the step's batch before the step; null in row 0
        pa.field("lr", pa.float64()),
        pa.field("val_recall@1", pa.float32()),  # percent, after the step; null where it was not measured
        pa.field("val_recall@10", pa.float32()),
        pa.field("temperature", pa.float32(), nullable=False),  # after the step
    ]
)
Share = Annotated[float, Field(gt=0, lt=1)]


class Described(NamedTuple):
    """Parts of a model card: a tag, and lines on what the network is and how it is read."""

    tag: str
    what: tuple[str, ...]
    read: tuple[str, ...]


class TrainConfig(StageConfig):
    """How the retriever is trained. The defaults suit the tiny world; for a real BLIP-2 set learning_rate=1e-5."""

    seeds: tuple[NonNegativeInt, ...] = Field((0, 1, 2), min_length=1, description="one training run for each")
    epochs: PositiveInt = Field(7, description="times that every triplet is seen")
    batch_size: Annotated[int, Field(ge=2, description="triplets per step; the others' targets are negatives")] = 64
    hard_negatives: NonNegativeInt = Field(
        0, description="of each triplet's negatives, from stage mine, so many are wrong answers to the whole batch"
    )
    learning_rate: PositiveFloat = Field(1e-3, description="the highest; AdamW")
    warmup: Annotated[float, Field(ge=0, lt=1, description="share of the steps in which the rate rises")] = 0.1
    schedule: Literal["cosine", "step", "constant"] = Field(
        "cosine", description="cosine to 0; step: x0.1 every 10 epochs; constant"
    )
    weight_decay: NonNegativeFloat = 0.05
    clip: PositiveFloat = Field(1.0, description="greatest norm of the gradient")
    dropout: Annotated[float, Field(ge=0, lt=1, description="of the Q-Former's hidden states and attention")] = 0.0
    temperature: PositiveFloat | None = Field(
        0.07, description="divides the cosines; the start, if it is learned; None: the checkpoint's own"
    )
    learn_temperature: bool = True
    losses: Annotated[tuple[Term, ...], Field(min_length=1)] = Field(
        ("composed_image",),
        description="summed: composed_image and composed_text look for the target's image or text, caption_image for"
        " the image of a caption; a batch has those that its triplets serve",
    )
    directions: Literal["one", "both"] = Field("one", description="both: targets also look for their queries")
    text_reading: TextReading = Field(
        "cls", description="target texts and captions: [CLS], or query tokens without an image; see docs/parity.md"
    )
    text_targets: Literal["trained", "frozen"] = Field(
        "trained", description="frozen: target texts and captions stay as the base reads them; see docs/training.md"
    )
    similarity: Similarity = Field(
        "max", description="mean of maxima over tokens; pooled: one mean vector; slots: token by token"
    )
    cached_rows: PositiveInt | None = Field(
        None, description="triplets encoded at once, by cached gradients: less memory, same loss; None: the batch"
    )
    max_text_tokens: PositiveInt | None = Field(None, description="texts are cut here; None: the checkpoint's limit")
    validation: Share = Field(0.1, description="share of the references held out to choose the checkpoint")
    validation_gallery: PositiveInt = Field(1000, description="images that the validation ranks")
    validate_every: PositiveInt | None = Field(None, description="steps between validations; None: one per epoch")
    patience: PositiveInt | None = Field(None, description="stop after so many validations without improvement")
    save_every: PositiveInt = Field(50, description="steps between saved states, beside one at each validation")
    dtype: Literal["auto", "float32", "bfloat16"] = Field("auto", description="auto: bfloat16 where it is faster")

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"seeds must differ from each other, got {seeds}")
        return seeds

    @model_validator(mode="after")
    def _losses_fit(self) -> Self:
        if len(set(self.losses)) < len(self.losses):
            raise ValueError(f"losses are different, got {', '.join(self.losses)}")
        if self.similarity == "slots" and self.losses != ("composed_image",) and self.text_reading == "cls":
            raise ValueError(
                'similarity="slots" compares token by token, and text_reading="cls" gives a text one token only; set'
                ' text_reading="query_ffn"'
            )
        if self.text_targets == "frozen" and not {"composed_text", "caption_image", "image_caption"} & set(self.losses):
            raise ValueError(
                f'text_targets="frozen" needs a loss with texts, and losses are {", ".join(self.losses)}; set'
                ' text_targets="trained"'
            )
        return self

    def objective(self) -> "RetrievalLoss":
        """The losses, as the network takes them."""
        from models.objectives import RetrievalLoss  # torch takes seconds to import

        return RetrievalLoss(self.losses, self.directions, self.text_reading, self.similarity)

    def facts(self) -> dict[str, Any]:
        """What else decides the weights: digests of what the settings only name."""
        return {}

    def described(self) -> Described:
        """What a model card says of the network."""
        unread = (
            "- It composes queries and encodes images. Texts alone are read by the base: they were kept as that reads",
            "  them, and this network has unlearned it.",
        )
        return Described(
            "blip-2",
            (
                "A BLIP-2 whose Q-Former was fine-tuned by Cirque on triplets of a reference image, a modification and",
                "a target; the vision tower is the base's.",
            ),
            (
                "- The weights are in the format of Hugging Face's `Blip2ForImageTextRetrieval`, unless `config.json`",
                "  names CLIP's tower, which only Cirque builds. A query is read as Cirque's docs/parity.md says.",
                *(unread if self.text_targets == "frozen" else ()),
            ),
        )

    def prepare(self, encoder: TrainableEncoder) -> None:
        """Set an encoder that was just loaded as it is to be trained."""
        encoder.set_dropout(self.dropout)
        if self.temperature is not None:
            encoder.temperature.data.fill_(self.temperature)


class MvftJiTrain(TrainConfig):
    """MVFT-JI's two losses, summed. For a real BLIP-2 set learning_rate=1e-5, batch_size=128 and schedule=step."""

    epochs: PositiveInt = Field(4, description="times that every triplet is seen")
    # Trained along, the small BLIP-2's texts forget what the triplets do not show; and at a temperature above the one
    # that it was trained with, its images are pushed about (docs/studies.md).
    text_targets: Literal["trained", "frozen"] = Field(
        "frozen", description="frozen: target texts and captions stay as the base reads them; see docs/training.md"
    )
    temperature: PositiveFloat | None = Field(
        None, description="the start, if it is learned; None: the checkpoint's own"
    )
    losses: Annotated[tuple[Term, ...], Field(min_length=1)] = Field(
        ("composed_text", "caption_image"), description="summed; see docs/training.md"
    )


def train_facts(
    config: TrainConfig, triplets: Artifact, images: Artifact, tokens: Artifact, started: Artifact | None = None
) -> dict[str, Any]:
    """What the key has to know: the dtype behind "auto". The weights are in the key of `tokens`."""
    return {"dtype": training_dtype(config.dtype), **config.facts()}


@stage(version=4, facts=train_facts)
def train(
    out: Path,
    config: TrainConfig,
    triplets: Artifact,
    images: Artifact,
    tokens: Artifact,
    started: Artifact | None = None,
    *,
    facts: Mapping[str, Any] = NO_FACTS,
    resources: Resources,
) -> Counts:
    """Write seed-<s>/, the best checkpoint of each seed in Hugging Face format, last-<s>/ where the last is another,
    history.parquet, and tensorboard/.

    The base checkpoint is the one that `tokens` were made with, or that `embedder` chose. With `started`, an earlier
    training, each seed goes on from its checkpoint there. A frozen vision tower runs once over the images, for all
    trainings. The checkpoint of a seed is the step with the highest mean of recall@1 and recall@10 on held-out
    references, the one that it began with included. A killed run continues from its last saved state, with the same
    steps. With `resources.processes` as many share every batch, one for each GPU, and the steps are those of one
    process. On a CPU the seeds are trained side by side, see `tasks.train_room.room_for`.

    Raises:
        ValueError: if triplets and images do not belong together, hard negatives are wanted and there are none, a batch
            cannot be shared evenly, or the loss or its gradient is not finite: the message names the batch's triplets.
        OSError, MemoryError: before the first step, if the disk has no room for the checkpoints, or the memory none for
            a batch.
    """
    from tasks.cards import Origin
    from tasks.seed_run import history_file, summary  # torch takes seconds to import
    from tasks.train_together import Job

    refuse_half_on_cpu("auto", str(tokens.manifest["facts"]["dtype"]), resources)
    known = pictures(images)
    split = split_of(config, triplets, known)
    used = [*split.training, *split.validation]
    texts = [text for one in used for text in (one.modification, one.target_text, one.reference_caption) if text]
    encoder = base_encoder(config, tokens, resources)
    digest, cut = encoder.digest, encoder.cut_texts(texts)
    del encoder  # each seed begins with its own
    history = out / "history.parquet"
    if not history.exists():
        inputs = {artifact.stage: artifact.key for artifact in (triplets, images, tokens)}
        if started is not None:
            inputs["started"] = started.key
        origin = Origin(
            str(tokens.manifest["config"]["checkpoint"]), digest, inputs, len(split.training),
            len(split.validation), str(facts["dtype"]),
        )  # fmt: skip
        start = seed_starts(config, split, images, tokens, started, resources)
        todo = tuple(unfinished(out, config))
        if todo:
            job = Job(out, config, triplets, images, tokens, started, origin, resources, todo)
            _train_all(job, start, split.groups)
        runs = [read_table(history_file(out, seed), HISTORY) for seed in sorted(config.seeds)]
        write_table(history, pa.concat_tables(runs), HISTORY)
    for seed in config.seeds:
        history_file(out, seed).unlink(missing_ok=True)
    return Counts(
        read=len(used) + sum(split.dropped.values()),
        kept=len(used),
        dropped=split.dropped,
        written=len(config.seeds),
        detail={
            "training": len(split.training),
            "validation": len(split.validation),
            "gallery": len(split.gallery),
            "gallery_texts": len(split.texts),
            "cut_texts": cut,
            "dtype": str(facts["dtype"]),
            **summary(read_table(history, HISTORY)),
        },
    )


def _train_all(job: "Job", start: "Start", groups: Sequence[int]) -> None:
    """Train the seeds of a job here, or side by side, or each by several processes."""
    from tasks.train_room import room_for, threaded, threads_for
    from tasks.train_together import train_apart, train_together

    out, config, todo, resources = job.out, job.config, job.todo, job.resources
    encoder, examples = start(todo[0])
    count = room_for(out, config, encoder, examples, job.origin.dtype, len(todo), resources)
    read = examples.read if job.started is None else None
    del encoder, examples
    threads = threads_for(config, groups, resources)
    if count == resources.processes == 1:
        with threaded(threads):
            train_seeds(out, config, start, groups, job.origin, todo)
        return
    for seed in todo[1:] if job.started is not None else ():
        start(seed)  # its tower's features are then on disk, as the first's, for all processes
    job = job._replace(read=read)
    if count > 1:
        train_apart(job, groups, count, threads)
    else:
        train_together(job, groups)


def base_encoder(
    config: TrainConfig, tokens: Artifact, resources: Resources, started: Path | None = None
) -> TrainableEncoder:
    """The checkpoint that `tokens` were made with, or one in the folder `started`, ready to be trained.

    Raises:
        ValueError: if its files are not those any more.
    """
    name, facts = tokens.manifest["config"]["checkpoint"], tokens.manifest["facts"]
    encoder = load_encoder(str(started or name), resources.device, facts["dtype"], config.max_text_tokens)
    if started is None and encoder.digest != facts["weights"]:
        raise ValueError(f"the files of checkpoint {name} are not those that encoded the images; run again")
    config.prepare(encoder)
    return encoder


def seed_starts(
    config: TrainConfig,
    split: "Split",
    images: Artifact,
    tokens: Artifact,
    started: Artifact | None,
    resources: Resources,
    read: "TextTokens | None" = None,
) -> "Start":
    """From a seed to what it begins with: the encoder, and the examples as its tower sees them.

    All begin with the base checkpoint or, where there was an earlier training, each with its checkpoint of there; a
    seed that it had not raises a FileNotFoundError. Frozen texts as the base checkpoint reads them are read once, or
    come as `read`.
    """
    from tasks.examples import Examples, TextTokens

    known = pictures(images)
    wanted = [row for row in known if row.image_id in split.image_ids]

    def start(seed: int) -> tuple[TrainableEncoder, Examples]:
        nonlocal read
        folder = None if started is None else started.file(f"seed-{seed}")
        encoder = base_encoder(config, tokens, resources, folder)
        features = vision_features(images, wanted, encoder, resources)
        if config.text_targets == "frozen" and (read is None or started is not None):
            read = TextTokens(encoder, config.text_reading, split.read_texts)
        return encoder, Examples(split, features, known, encoder.device, config.objective(), read)

    return start


def split_of(config: TrainConfig, triplets: Artifact, known: Sequence[Picture]) -> "Split":
    """What is trained on and what chooses the checkpoint."""
    from tasks.splits import split_triplets

    ids = {row.image_id for row in known}
    return split_triplets(
        triplets, ids, config.validation, config.validation_gallery, config.hard_negatives, config.losses
    )


def vision_features(
    images: Artifact, rows: Sequence[Picture], encoder: TrainableEncoder, resources: Resources
) -> Features | FreshFeatures | Pixels:
    """Features of the frozen tower: computed once and kept in the store if they fit the budget, else at every step.

    They are float16 either way, so that the steps are the same. Towers that differ have folders of their own. A tower
    that is trained runs within the step, on what it is shown.
    """
    if encoder.takes_pixels:
        return Pixels(images, rows, encoder, resources)
    tokens, width = encoder.vision([Image.new("RGB", (32, 32))]).shape[1:]
    wanted = len({row.sha256 for row in rows}) * tokens * width * 2 / 1e9
    if wanted > resources.feature_gb:
        log.warning(
            "vision features of %d images would take %.1f GB, more than resources.feature_gb=%g: every step computes"
            " those it needs, which is slower", len(rows), wanted, resources.feature_gb,
        )  # fmt: skip
        return FreshFeatures(images, rows, encoder, resources)
    features = Features(home() / "features" / f"vision-{encoder.tower_digest()[:20]}")
    absent = features.missing([row.sha256 for row in rows])
    if absent:
        say(f"train: the vision tower's features of {len(absent):,} images are computed once and kept")
    compute(features, images, rows, encoder, encoder.vision_of, resources)
    return features


def unfinished(out: Path, config: TrainConfig) -> list[int]:
    """The seeds that have no checkpoint yet."""
    return [seed for seed in config.seeds if not (out / f"seed-{seed}").exists()]


def train_seeds(
    out: Path,
    config: TrainConfig,
    start: "Start",
    groups: Sequence[int],
    origin: "Origin",
    todo: Sequence[int],
    processes: "Processes | None" = None,
) -> None:
    """Train the seeds of `todo` one after the other; `groups` are those of the split."""
    import torch

    from models.gradients import Processes
    from tasks.seed_run import SeedRun, total_steps

    steps, finished = total_steps(config, groups), len(config.seeds) - len(todo)
    with progress(steps * len(config.seeds), "steps", steps * finished) as advance, torch.random.fork_rng():
        for seed in todo:
            encoder, examples = start(seed)
            SeedRun(out, config, seed, encoder, examples, origin, processes or Processes()).finish(advance)
