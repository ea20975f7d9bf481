"""Search a folder of images by a reference image and a text."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from data import places
from data.artifact import Artifact
from data.config import Resources
from data.images import BadImage, load_rgb
from data.keys import file_digest
from data.tokens import read_tokens
from models.encoders import Encoder
from models.encoders import load_encoder as load_trainable
from tasks.encode import EncodeConfig, encode
from tasks.features import Picture, pictures
from tasks.ingest import IngestConfig, ingest

if TYPE_CHECKING:  # torch takes seconds to import: not before the folder is known to be one
    from PIL import Image

    from models.ranking import Ranked, TokenSets


@dataclass(frozen=True)
class Gallery:
    """The usable images of a folder, and their tokens, mapped from the store.

    Attributes:
        images: the artifact of `ingest`: its counts tell which files are not used, and why.
        rows: the images, in the order of the tokens.
        sets: their tokens.
        states: whether ingest and encode were found in the store.
    """

    images: Artifact
    rows: list[Picture]
    sets: "TokenSets"
    states: dict[str, Literal["ran", "cached"]]


@dataclass(frozen=True)
class Hit:
    """An image that was found; rank from 1, score as of `models.similarity`.

    `path` is its file; of an image in a tar the bytes' place, as `data.places` writes it.
    """

    rank: int
    image_id: str
    path: str
    score: float


@dataclass(frozen=True)
class Found:
    """The answer: the best images, and the image of the gallery that was left out as the reference, if it is there."""

    hits: list[Hit]
    excluded: str | None


def open_gallery(folder: Path, checkpoint: str, resources: Resources) -> Gallery:
    """Verify and encode the images of a folder, as far as the store does not have them yet.

    A second call looks only at the names, sizes and times of the files; after new images came, only these are encoded.

    Raises:
        OSError, ValueError: if the folder cannot be read, or holds no usable image.
        FileNotFoundError, LookupError: if there is no such checkpoint.
    """
    listed = ingest.make(IngestConfig(source="folder", path=folder), resources=resources)
    return encoded_gallery(listed.artifact, checkpoint, resources, listed.state)


def encoded_gallery(
    images: Artifact, checkpoint: str, resources: Resources, state: Literal["ran", "cached"] = "cached"
) -> Gallery:
    """The images of an artifact of `ingest`, encoded as far as the store does not have them yet."""
    encoded = encode.make(EncodeConfig.model_validate({"checkpoint": checkpoint}), images, resources=resources)
    from models.ranking import TokenSets

    ids, array = read_tokens(encoded.artifact.file("tokens.arrow"))
    return Gallery(images, pictures(images), TokenSets(ids, array), {"ingest": state, "encode": encoded.state})


def load_encoder(checkpoint: str, device: str) -> Encoder:
    """The encoder of the queries; it has to be that of the gallery. Raises as `models.encoders.load_encoder` does."""
    return load_trainable(checkpoint, device)


def search(
    gallery: Gallery, encoder: Encoder, reference: Path, text: str, k: int, keep_reference: bool = False
) -> Found:
    """The k images of a gallery nearest to a reference image changed as a text says.

    The query is composed and ranked as in evaluation: mean over its tokens of the maximum over an image's tokens, ties
    by id.

    Args:
        gallery: of the same checkpoint as the encoder.
        encoder: composes the query.
        reference: an image file, in the gallery or not.
        text: the modification.
        k: at least 1; a smaller gallery gives fewer.
        keep_reference: also rank the image whose file has the same bytes as the reference.

    Raises:
        ValueError: if the text is empty, the file is no image, or the gallery holds nothing but the reference.
    """
    from models.ranking import top_k

    if not text.strip():
        raise ValueError("the text is empty; say what is to be changed, such as 'make it red'")
    image = open_reference(reference)
    barred = -1 if keep_reference else place_of(gallery, file_digest(reference))
    refuse_lone(gallery, barred)
    ranked = top_k(composed(encoder, image, text), gallery.sets, k, exclude=[barred])
    return Found(hits(gallery, ranked), gallery.rows[barred].image_id if barred >= 0 else None)


def place_of(gallery: Gallery, sha256: str) -> int:
    """Row of the image with these bytes; -1 if there is none."""
    return next((at for at, row in enumerate(gallery.rows) if row.sha256 == sha256), -1)


def refuse_lone(gallery: Gallery, barred: int) -> None:
    """Raise a ValueError if nothing is left to be found when a row is left out."""
    if len(gallery.rows) == (barred >= 0):
        raise ValueError("the gallery holds no image but the reference; add images, or keep the reference in it")


def composed(encoder: Encoder, image: "Image.Image", text: str) -> "TokenSets":
    """A query's tokens: one set."""
    import torch

    from models.ranking import TokenSets

    with torch.inference_mode():
        query = encoder.query_tokens(encoder.vision([image]), [text])
    return TokenSets(["of the query"], query.tokens.cpu().numpy(), query.mask.cpu().numpy())


def hits(gallery: Gallery, ranked: "Ranked") -> list[Hit]:
    """The images of a ranking of one query."""
    found = []
    for rank, (at, score) in enumerate(zip(ranked.indices[0], ranked.scores[0], strict=True), 1):
        if at >= 0:
            row = gallery.rows[at]
            found.append(
                Hit(rank, row.image_id, places.uri_of(places.place_of(row.uri, gallery.images.path)), float(score))
            )
    return found


def open_reference(path: Path) -> "Image.Image":
    """Decode the reference image; a ValueError says what is wrong with the file."""
    try:
        return load_rgb(path)
    except BadImage as error:
        raise ValueError(f"the reference {path} cannot be used: {error}; give an image file") from error
