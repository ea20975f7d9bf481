"""Which triplets serve which losses, and what validation looks for."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from data.artifact import Artifact, write_table
from data.schemas import TRIPLETS
from tasks.examples import Examples, with_negatives
from tasks.features import Features, compute, pictures
from tasks.splits import Split, split_triplets
from tasks.train import MvftJiTrain, TrainConfig, base_encoder
from tests.tasks.small_artifacts import sealed, triplets_artifact
from tests.tasks.test_train import RESOURCES, WORDS, inputs, run

KNOWN = {f"image-{index:03d}" for index in range(30)}


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """As of `inputs`, but 20 triplets have a text and a caption, 6 an image, one a caption only and one nothing."""
    folder = tmp_path_factory.mktemp("inputs")
    found = inputs(folder)
    plain = triplets_artifact(
        folder / "other", [(f"image-{i:03d}", f"make it {WORDS[i % 6]}", None) for i in range(28)]
    )
    rows = plain.read(TRIPLETS, "triplets.parquet").to_pylist()
    for place, row in enumerate(rows):
        if place < 20:
            row |= {"target_text": f"a {WORDS[place % 6]} circle", "negative_texts": [f"a {WORDS[place % 4]} star"]}
        if place < 20 or place == 26:
            row["reference_caption"] = f"a {WORDS[place % 5]} square"
        elif place < 26:
            row["target_id"] = f"image-{place - 10:03d}"
    out = folder / "mixed"
    write_table(out / "triplets.parquet", pa.Table.from_pylist(rows, schema=TRIPLETS), TRIPLETS)
    return found | {"triplets": sealed(out, "mixed", len(rows))}


def split_of(artifacts: dict[str, Artifact], *terms: str, **options: int) -> Split:
    return split_triplets(artifacts["triplets"], KNOWN, 0.2, 12, terms=terms, **options)  # type: ignore[arg-type]


def test_triplets_serve_the_losses_that_they_have_everything_for(artifacts: dict[str, Artifact]) -> None:
    mixed = split_of(artifacts, "composed_image", "composed_text", "caption_image")
    serves = {one.triplet_id: one.serves for one in (*mixed.training, *mixed.validation)}
    assert serves["t-0000"] == ("composed_text", "caption_image")
    assert serves["t-0020"] == ("composed_image",)
    assert "t-0027" not in serves
    # One is alone in its group, unless it is held out.
    lonely = mixed.dropped.get("too_few_of_their_kind", 0)
    assert lonely == ("t-0026" not in serves)
    assert mixed.dropped["no_target_image"] == 1
    assert len(serves) + 1 + lonely == 28
    assert sum(mixed.groups) == len(mixed.training)
    ends = np.cumsum(mixed.groups)
    assert all(
        len({one.serves for one in mixed.training[end - n : end]}) == 1
        for end, n in zip(ends, mixed.groups, strict=True)
    )
    only = split_of(artifacts, "composed_image")
    assert only.dropped == {"no_target_image": 22}
    assert only.texts == []
    texts = split_of(artifacts, "composed_text")
    assert texts.dropped == {"no_target_text": 8}


def test_validation_looks_for_images_and_texts(artifacts: dict[str, Artifact]) -> None:
    split = split_of(artifacts, "composed_text", "caption_image")
    assert {one.target_text for one in split.validation if one.target_text} <= set(split.texts)
    assert {one.reference_id for one in split.validation} <= set(split.gallery)
    assert len(split.texts) == 6  # all there are
    assert len(split.gallery) == 12


def test_a_batch_has_what_its_triplets_serve(artifacts: dict[str, Artifact], tmp_path: Path) -> None:
    config = TrainConfig(losses=("composed_image", "composed_text", "caption_image"))
    split = split_of(artifacts, *config.losses, hard_negatives=1)
    encoder = base_encoder(config, artifacts["tokens"], RESOURCES)
    known = pictures(artifacts["images"])
    features = Features(tmp_path / "features")
    compute(features, artifacts["images"], known, encoder, encoder.vision_of, RESOURCES)
    examples = Examples(split, features, known, encoder.device)
    start = 0
    for size in split.groups:
        chosen = split.training[start : start + size]
        batch = examples.batch(np.arange(start, start + size))
        start += size
        assert (batch.target is not None) == ("composed_image" in chosen[0].serves)
        if batch.target_texts is None:
            continue
        texts = [str(one.target_text) for one in chosen]
        assert batch.target_texts == texts
        assert batch.negative_texts == [[one.negative_texts[0]] for one in chosen]
        assert batch.same_text is not None
        assert batch.same_text[:, :size].tolist() == [[one == other for other in texts] for one in texts]
        assert batch.same_caption is not None
        captions = [one.reference_caption for one in chosen]
        assert batch.same_caption.tolist() == [[one == other for other in captions] for one in captions]
    ranks = examples.ranks(encoder)
    assert len(ranks) == sum(len(one.serves) for one in split.validation)
    assert ((ranks >= 1) & (ranks <= 12)).all()


def test_negatives_fill_up_and_count_once() -> None:
    # Rows 0 and 1 look for a and b. Row 0 has wrong answers c and b, row 1 has C, which is the same word as c.
    filled, same = with_negatives(["a", "b"], [["c", "b"], ["C"]], str.lower)
    assert filled == [["c", "b"], ["C", "b"]]
    assert same.tolist() == [
        [True, False, False, True, True, True],
        [False, True, False, True, True, True],
    ]  # c counts for both; b is there as a target, C as c, and the last place is filled with row 1's own target
    assert with_negatives(["a", "a"], [(), ()])[1].tolist() == [[True, True], [True, True]]


def test_texts_train_a_retriever(artifacts: dict[str, Artifact], tmp_path: Path) -> None:
    losses = MvftJiTrain().losses
    assert losses == ("composed_text", "caption_image")
    counts = run(tmp_path / "out", artifacts, seeds=(0,), losses=losses, batch_size=8, epochs=2, cached_rows=3)
    assert counts.dropped.keys() <= {"no_target_text", "too_few_of_their_kind"}
    assert counts.read == 28
    assert counts.detail["gallery_texts"] == 6


def test_losses_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ValueError, match="gives a text one token only"):
        TrainConfig(losses=("composed_text",), similarity="slots")
    assert TrainConfig(losses=("composed_text",), similarity="slots", text_reading="query_ffn").similarity == "slots"
    with pytest.raises(ValueError, match="losses are different"):
        TrainConfig(losses=("composed_text", "composed_text"))
