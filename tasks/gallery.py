"""Features: the image tokens of a benchmark by one checkpoint, computed once and mapped from the store ever after."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data.artifact import Counts
from data.config import Resources, StageConfig
from data.tokens import read_tokens, write_tokens
from models.encoders import Encoder
from tasks.answers import Advance, ImageTokens, encode_images
from tasks.pictures import Batch, Pictures, images_digest
from tasks.stage import Outcome, stage


class FeaturesConfig(StageConfig):
    """Whose images. What queries ask and how they are scored changes no feature, so neither is here."""

    benchmark: str
    split: str


def gallery_features(
    encoder: Encoder,
    dtype: str,
    pictures: Pictures,
    resources: Resources,
    advance: Advance,
    also: Callable[[Batch], None] = lambda batch: None,
) -> tuple[ImageTokens, Outcome]:
    """Tokens of all images of a benchmark, gallery and references, mapped from a sealed artifact of the store.

    The key is made of the checkpoint (weights and preprocessing), its tower's dtype, and the images.

    Args:
        encoder: the checkpoint.
        dtype: of its vision tower.
        pictures: the images.
        resources: for the stage's record.
        advance: told of images encoded.
        also: shown the features of every batch, if the stage has to run.

    Returns:
        The tokens, and whether they were cached.

    Raises:
        ValueError: if some tokens do not count: the file of tokens has no mask.
    """

    def facts(config: FeaturesConfig) -> Mapping[str, Any]:
        return {"weights": encoder.digest, "dtype": dtype, "images": images_digest(pictures.benchmark)}

    # A stage made where its images are: a config cannot hold what opens them.
    @stage(version=1, facts=facts)
    def features(out: Path, config: FeaturesConfig, *, resources: Resources) -> Counts:
        """Write tokens.arrow: (T, D) float16 tokens of every image, ordered by id."""
        order = np.argsort(np.array(pictures.ids, dtype=object), kind="stable")
        raw = out / "tokens.npy"
        images = encode_images(encoder, pictures, raw, advance, also, np.argsort(order))
        if not images.mask.all():
            count = int((~images.mask).any(axis=1).sum())
            raise ValueError(f"{count} images of {config.benchmark} have tokens that do not count; want T for each")
        write_tokens(out / "tokens.arrow", [pictures.ids[place] for place in order], images.tokens)
        raw.unlink()
        size, tokens, dim = images.tokens.shape
        return Counts(read=size, kept=size, written=size, detail={"tokens": tokens, "dim": dim})

    config = FeaturesConfig(benchmark=pictures.benchmark.name, split=pictures.benchmark.split)
    outcome = features.make(config, resources=resources)
    ids, array = read_tokens(outcome.artifact.file("tokens.arrow"))
    row = {image: at for at, image in enumerate(ids)}
    rows = np.array([row[image] for image in pictures.ids], dtype=np.intp)
    return ImageTokens(array, np.ones(array.shape[:2], dtype=bool), rows), outcome
