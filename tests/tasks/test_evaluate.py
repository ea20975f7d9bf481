"""Evaluation of a world whose ranks can be read off: image k of the gallery points at 10 k degrees.

A text "at 31" points at 31 degrees, and a trained checkpoint composes a query by following its text, off by as many
degrees as its seed says. Cosines fall with the angle, so the nearest angle ranks first.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from PIL import Image
from torch import Tensor

import data.benchmarks
import tasks.evaluate
from data.artifact import Artifact, Counts, read_table, write_table
from data.benchmarks import Benchmark, Query
from data.config import Resources
from data.images import BadImage
from data.schemas import PREDICTIONS, SCORES, TESTS, VALUES
from models.encoders import TextReading, TokenSet, load_encoder
from models.encoders.mllm import MllmEncoder
from tasks.evaluate import EvaluateConfig, evaluate, evaluate_facts
from tasks.query_texts import QUERY_TEXTS
from tests.models.tiny_blip2 import noise_images, tiny_checkpoint
from tests.models.tiny_llava import tiny_llava_folder
from tests.tasks.small_artifacts import sealed

OFF = {"seed-0": 0.0, "seed-1": -9.0, "base": 0.0}


class Compass:
    """An encoder of the world above; the tower shows an image's angle."""

    def __init__(self, off: float = 0.0, tower: float = 0.0) -> None:
        self.digest = "weights"
        self.truncations = 0
        self.off = off
        self.tower = tower

    def pixels(self, images: Sequence[Image.Image]) -> Tensor:
        return torch.tensor([[[float(image.getpixel((0, 0))[0])]] for image in images])  # type: ignore[index]

    def vision_of(self, pixels: Tensor) -> Tensor:
        return pixels + self.tower

    def vision(self, images: Sequence[Image.Image]) -> Tensor:
        return self.vision_of(self.pixels(images))

    def image_tokens(self, vision: Tensor) -> TokenSet:
        return pointing(10 * (vision[:, :, 0] - self.tower))

    def text_tokens(self, texts: Sequence[str], reading: TextReading = "cls") -> TokenSet:
        return pointing(torch.tensor([[float(text.removeprefix("at "))] for text in texts]))

    def query_tokens(self, vision: Tensor, texts: Sequence[str]) -> TokenSet:
        return pointing(torch.tensor([[float(text.removeprefix("at ")) + self.off] for text in texts]))

    def save(self, folder: Path) -> None:
        raise NotImplementedError


def pointing(degrees: Tensor) -> TokenSet:
    radians = degrees * math.pi / 180
    return TokenSet(torch.stack([radians.cos(), radians.sin()], dim=-1), torch.ones(degrees.shape, dtype=torch.bool))


class World:
    """Benchmarks by name; counts the images that were loaded."""

    def __init__(self) -> None:
        self.benchmarks: dict[str, Benchmark] = {}
        self.loaded: list[str] = []
        self.encoder: Callable[[str], object] = lambda name: Compass(OFF[name])

    def add(self, name: str, *queries: Query, **changes: object) -> None:
        given = {
            "name": name,
            "split": "val",
            "gallery": ("i0", "i1", "i2", "i3", "i4", "i5"),
            "queries": queries,
            "protocol": {"reference": "mask"},
            "metrics": ("recall@1", "recall@2", "recall@3"),
            "source": "the test",
            "licence": "none",
            "load_image": self.load_image,
            "digest": name,
        }
        self.benchmarks[name] = Benchmark(**{**given, **changes})  # type: ignore[arg-type]

    def load_image(self, image_id: str) -> Image.Image:
        self.loaded.append(image_id)
        return Image.new("RGB", (10, 10), (int(image_id[1:]), 0, 0))


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setattr(tasks.evaluate, "names", lambda: ["one", "two"])
    monkeypatch.setattr(tasks.evaluate, "load_benchmark", lambda name, split: world.benchmarks[name])
    monkeypatch.setattr(tasks.evaluate, "load_encoder", lambda name, *options: world.encoder(Path(name).name))
    return world


def run(
    folder: Path,
    seeds: Sequence[int] = (0,),
    texts: Artifact | None = None,
    training: Mapping[str, str] | None = None,
    **config: object,
) -> Counts:
    trained, tokens = inputs(folder, seeds, training)
    out = folder / "out"
    out.mkdir(exist_ok=True)
    settings = EvaluateConfig.model_validate({"benchmarks": ("one",), **config})
    return evaluate.fn(out, settings, trained, tokens, texts, resources=Resources(batch_size=2))


def written(folder: Path, digest: str = "one", **texts: str) -> Artifact:
    """Target texts of the queries of benchmark "one", as `query_texts` leaves them."""
    rows = [{"benchmark": "one", "query_id": query, "text": text} for query, text in texts.items()]
    write_table(folder / "texts" / "texts.parquet", pa.Table.from_pylist(rows, schema=QUERY_TEXTS), QUERY_TEXTS)
    return sealed(folder / "texts", "query_texts", config={"split": "val"}, facts={"benchmarks": {"one": digest}})


def inputs(folder: Path, seeds: Sequence[int], training: Mapping[str, str] | None = None) -> tuple[Artifact, Artifact]:
    for seed in seeds:
        (folder / "trained" / f"seed-{seed}").mkdir(parents=True, exist_ok=True)
    trained = sealed(folder / "trained", "train", config={"seeds": list(seeds), **(training or {})})
    tokens = sealed(
        folder / "tokens", "encode", config={"checkpoint": "base"}, facts={"weights": "weights", "dtype": "float32"}
    )
    return trained, tokens


def values(folder: Path) -> dict[tuple[str, str], float]:
    table = read_table(folder / "out" / "scores.parquet", SCORES)
    return {(row["method"], row["metric"]): row["value"] for row in table.to_pylist()}


def ranked(folder: Path, method: str, seed: int | None = None) -> list[str]:
    rows = read_table(folder / "out" / "predictions.parquet", PREDICTIONS).to_pylist()
    return [row["image_id"] for row in rows if (row["method"], row["seed"]) == (method, seed)]


QUERY = Query("q", "i0", "at 31", ("i3",), tags=("turn",))


def test_methods_rank_as_their_angles_say(tmp_path: Path, world: World) -> None:
    world.add("one", QUERY)
    counts = run(tmp_path, seeds=(0, 1))
    # i0 is masked. Image: 0 degrees. Text: 31. Both: 15.5, so i2 is off by 4.5 and i1 by 5.5. Seed 1: 31 - 9 = 22.
    assert ranked(tmp_path, "image_only") == ["i1", "i2", "i3", "i4", "i5"]
    assert ranked(tmp_path, "text_only") == ["i3", "i4", "i2", "i5", "i1"]
    assert ranked(tmp_path, "image_text") == ["i2", "i1", "i3", "i4", "i5"]
    assert ranked(tmp_path, "composed", 0) == ["i3", "i4", "i2", "i5", "i1"]
    assert ranked(tmp_path, "composed", 1) == ["i2", "i3", "i1", "i4", "i5"]
    assert counts.model_dump() == {
        "read": 1,
        "kept": 1,
        "dropped": {},
        "written": 4 * 4,  # methods by three recalls and one recall@1/turn
        "detail": {
            "queries_decided_by_a_tie": {f"one/{m}": 0 for m in ("image_only", "text_only", "image_text", "composed")},
            "vision_towers": {"one": 1},
            "texts_cut": 0,
        },
    }


def test_scores_are_percent_and_average_the_seeds(tmp_path: Path, world: World) -> None:
    world.add("one", QUERY)
    run(tmp_path, seeds=(0, 1))
    found = values(tmp_path)
    assert found["text_only", "recall@1"] == 100.0
    assert found["image_only", "recall@2"] == 0.0
    assert found["image_only", "recall@3"] == 100.0
    assert found["composed", "recall@1"] == 50.0  # seed 0 first, seed 1 second
    assert found["composed", "recall@1/turn"] == 50.0
    rows = read_table(tmp_path / "out" / "scores.parquet", SCORES).to_pylist()
    composed = next(row for row in rows if row["method"] == "composed")
    assert (composed["seeds"], composed["queries"], composed["protocol"]) == (2, 1, '{"reference":"mask"}')
    assert (composed["low"], composed["high"]) == (50.0, 50.0)  # one query: no other resample


def test_joint_inference_adds_the_similarity_of_the_target_text(tmp_path: Path, world: World) -> None:
    world.add("one", QUERY, Query("r", "i5", "at 12", ("i1",)))
    counts = run(tmp_path, seeds=(0, 1), texts=written(tmp_path, q="at 11"))
    # Text of q: 11 degrees. Joint with seed 0: cos(31 - x) + cos(11 - x) is greatest at 21, with seed 1 at 16.5.
    assert ranked(tmp_path, "target_text")[:5] == ["i1", "i2", "i3", "i4", "i5"]
    assert ranked(tmp_path, "target_text_trained", 1)[:5] == ["i1", "i2", "i3", "i4", "i5"]
    assert ranked(tmp_path, "joint", 0)[:5] == ["i2", "i3", "i1", "i4", "i5"]
    assert ranked(tmp_path, "joint", 1)[:5] == ["i2", "i1", "i3", "i4", "i5"]
    # r has no text: its modification, 12 degrees, stands for it
    assert ranked(tmp_path, "target_text")[5] == "i1"
    assert counts.detail["queries_without_a_text"] == {"one": 1}
    scores = read_table(tmp_path / "out" / "predictions.parquet", PREDICTIONS).to_pylist()
    first = next(row for row in scores if (row["method"], row["seed"]) == ("joint", 0))
    both = [math.cos(math.radians(angle - 20)) for angle in (31, 11)]
    assert first["score"] == pytest.approx(sum(both) / 2, abs=1e-3)
    run(tmp_path, texts=written(tmp_path, q="at 11"), weight=0.0)
    assert ranked(tmp_path, "joint", 0) == ranked(tmp_path, "composed", 0)


@pytest.mark.parametrize("baselines", [("image_only",), ()])
def test_texts_that_training_left_alone_are_left_to_the_base(
    tmp_path: Path, world: World, baselines: tuple[str, ...]
) -> None:
    """The trained network reads every text as the same; joint inference must not ask it."""

    class Unlearned(Compass):
        def text_tokens(self, texts: Sequence[str], reading: TextReading = "cls") -> TokenSet:
            return pointing(torch.full((len(texts), 1), 180.0))

        def image_tokens(self, vision: Tensor) -> TokenSet:
            return pointing(10 * vision[:, :, 0] + 9)

    world.encoder = lambda name: Compass() if name == "base" else Unlearned(OFF[name])
    world.add("one", QUERY)
    texts = written(tmp_path, q="at 11")
    run(tmp_path, seeds=(0, 1), texts=texts, training={"text_targets": "frozen"}, baselines=baselines)
    # Composed, 31 degrees, sees i3 at 39 and i2 at 29; the text, 11 degrees, sees i2 at 20 and i1 at 10.
    assert ranked(tmp_path, "composed", 0)[:3] == ["i2", "i3", "i1"]
    scores = read_table(tmp_path / "out" / "predictions.parquet", PREDICTIONS).to_pylist()
    first = next(row for row in scores if (row["method"], row["seed"]) == ("joint", 0))
    # cos(31 - 29) + cos(11 - 20) is more than cos(31 - 19) + cos(11 - 10)
    both = (math.cos(math.radians(2)) + math.cos(math.radians(9))) / 2
    assert (first["image_id"], first["score"]) == ("i2", pytest.approx(both, abs=1e-3))
    methods = {row["method"] for row in scores}
    assert methods == {"composed", "joint", *baselines, *(["target_text"] if baselines else [])}


def test_methods_are_compared_query_by_query(tmp_path: Path, world: World) -> None:
    world.add("one", QUERY, Query("r", "i5", "at 12", ("i1",)))
    run(tmp_path, seeds=(0, 1), texts=written(tmp_path, q="at 29", r="at 2"))
    found = read_table(tmp_path / "out" / "values.parquet", VALUES).to_pylist()
    worth = {(row["method"], row["seed"], row["query_id"]): row["value"] for row in found}
    assert worth["composed", 0, "q"] == 1  # i3 at 31
    assert worth["composed", 1, "q"] == 0  # i2 at 22
    assert worth["target_text", None, "r"] == 0  # i0 at 2
    tests = read_table(tmp_path / "out" / "tests.parquet", TESTS).to_pylist()
    pairs = [(row["method"], row["other"]) for row in tests]
    parts = ["image_only", "text_only", "image_text", "target_text", "target_text_trained"]
    assert sorted(pairs) == sorted(
        [*(("composed", other) for other in parts), *(("joint", other) for other in [*parts, "composed"])]
    )
    one = next(row for row in tests if row["other"] == "target_text")
    # composed: q (1 + 0) / 2, r at 12 and at 3 degrees (1 + 0) / 2; target_text: q 1, r 0
    assert one["difference"] == pytest.approx(0)
    assert (one["p"], one["metric"], one["queries"]) == (1, "recall@1", 2)


def test_texts_of_other_queries_are_refused(tmp_path: Path, world: World) -> None:
    world.add("one", QUERY)
    with pytest.raises(ValueError, match=r"not for the queries of one \(val\) as they are now"):
        run(tmp_path, texts=written(tmp_path, digest="before", q="at 11"))


def test_a_checkpoint_is_compared_as_it_was_trained(tmp_path: Path, world: World) -> None:
    class Two(Compass):
        """Images of two tokens: their angle, and one behind; the mean points between the two."""

        def image_tokens(self, vision: Tensor) -> TokenSet:
            angle = 10 * vision[:, :, 0]
            return pointing(torch.cat([angle, angle + 40], dim=1))

    world.add("one", QUERY)
    world.encoder = lambda name: Two()
    trained, tokens = inputs(tmp_path, (0,))
    manifest = {"seeds": [0], "similarity": "pooled", "text_reading": "cls"}
    trained = sealed(tmp_path / "trained", "train", config=manifest)
    (tmp_path / "out").mkdir()
    evaluate.fn(tmp_path / "out", EvaluateConfig(benchmarks=("one",)), trained, tokens, resources=Resources())
    # 31 degrees: i1 has its mean at 30. By the best token it would be i3, at 30 itself.
    assert ranked(tmp_path, "composed", 0)[0] == "i1"
    assert ranked(tmp_path, "text_only")[0] == "i3"


def test_kept_reference_and_several_targets(tmp_path: Path, world: World) -> None:
    query = Query("q", "i0", "at 31", ("i3", "i2"))
    world.add("one", query, protocol={"reference": "keep"}, metrics=("map@5", "recall@1"))
    run(tmp_path)
    assert ranked(tmp_path, "image_only") == ["i0", "i1", "i2", "i3", "i4", "i5"]
    # text_only: i3, i4, i2, ...: hits at 1 and 3 of two targets: (1/1 + 2/3) / 2 = 5/6
    assert values(tmp_path)["text_only", "map@5"] == pytest.approx(100 * 5 / 6)
    # image_only: hits at 3 and 4: (1/3 + 2/4) / 2 = 5/12
    assert values(tmp_path)["image_only", "map@5"] == pytest.approx(100 * 5 / 12)


def test_phrasings_are_averaged(tmp_path: Path, world: World) -> None:
    world.add("one", Query("q", "i5", "at 0", ("i3",), phrasings=("at 12", "at 50")))
    run(tmp_path)
    assert ranked(tmp_path, "text_only")[0] == "i3"  # (12 + 50) / 2 = 31
    assert ranked(tmp_path, "composed", 0)[0] == "i3"


def test_images_are_loaded_once_and_the_tower_is_compared_on_one_batch(tmp_path: Path, world: World) -> None:
    world.add("one", Query("q", "i9", "at 31", ("i3",)))  # the reference is not in the gallery
    run(tmp_path, seeds=(0, 1))
    assert sorted(world.loaded[:7]) == ["i0", "i1", "i2", "i3", "i4", "i5", "i9"]
    assert world.loaded[7:] == ["i0", "i1"] * 2
    assert not (tmp_path / "out" / "scratch").exists()


def test_a_checkpoint_with_another_tower_gets_its_own_features(tmp_path: Path, world: World) -> None:
    world.encoder = lambda name: Compass(tower=1.0 if name == "seed-1" else 0.0)
    world.add("one", QUERY)
    counts = run(tmp_path, seeds=(0, 1))
    assert counts.detail["vision_towers"] == {"one": 2}
    assert ranked(tmp_path, "composed", 0) == ranked(tmp_path, "composed", 1)


def test_features_survive_an_interruption(tmp_path: Path, world: World) -> None:
    class Dies(Compass):
        def text_tokens(self, texts: Sequence[str], reading: TextReading = "cls") -> TokenSet:
            raise KeyboardInterrupt

    world.add("one", QUERY)
    world.encoder = lambda name: Dies()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    world.encoder = lambda name: Compass()
    world.loaded.clear()
    run(tmp_path)
    assert world.loaded == ["i0", "i1"] * 2  # the comparison of base and seed 0
    assert ranked(tmp_path, "text_only")[0] == "i3"


def test_full_disk_means_computing_again(tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.pictures.DISK_SHARE", 0.0)
    world.add("one", QUERY)
    counts = run(tmp_path)
    assert counts.detail["vision_towers"] == {"one": 0}
    assert sorted(world.loaded) == sorted(["i0", "i1", "i2", "i3", "i4", "i5"] * 2)
    assert ranked(tmp_path, "composed", 0)[0] == "i3"


def test_nan_names_the_image(tmp_path: Path, world: World) -> None:
    class Broken(Compass):
        def image_tokens(self, vision: Tensor) -> TokenSet:
            return pointing(torch.where(vision == 4, math.nan, 10 * vision)[:, :, 0])

    world.add("one", QUERY)
    world.encoder = lambda name: Broken()
    with pytest.raises(ValueError, match=r"image 'i4'.*NaN"):
        run(tmp_path)


def test_collapsed_tokens_are_an_error_and_not_a_perfect_score(tmp_path: Path, world: World) -> None:
    class Collapsed(Compass):
        def image_tokens(self, vision: Tensor) -> TokenSet:
            return pointing(0 * vision[:, :, 0])

    world.add("one", Query("q", "i5", "at 31", ("i0",)))
    world.encoder = lambda name: Collapsed()
    with pytest.raises(ValueError, match="all 5 scores are 1; a constant ranks nothing"):
        run(tmp_path)


def test_ties_are_counted(tmp_path: Path, world: World) -> None:
    class Twins(Compass):
        def image_tokens(self, vision: Tensor) -> TokenSet:
            return pointing(10 * vision[:, :, 0].clamp(max=3))  # i3, i4 and i5 look alike

    world.add("one", QUERY)
    world.encoder = lambda name: Twins()
    assert run(tmp_path).detail["queries_decided_by_a_tie"]["one/text_only"] == 1  # type: ignore[call-overload, index]
    assert ranked(tmp_path, "text_only")[:3] == ["i3", "i4", "i5"]  # gallery order


def test_an_unreadable_image_is_named(tmp_path: Path, world: World) -> None:
    def load_image(image_id: str) -> Image.Image:
        if image_id == "i4":
            raise BadImage("truncated", "cut after 100 bytes")
        return world.load_image(image_id)

    world.add("one", QUERY, load_image=load_image)
    with pytest.raises(BadImage) as caught:
        run(tmp_path)
    assert "'i4' of benchmark 'one'" in caught.value.__notes__[0]


def test_hidden_targets_are_answered_and_counted_as_unscored(tmp_path: Path, world: World) -> None:
    world.add("one", Query("q", "i0", "at 31", ()), metrics=())
    world.add("two", QUERY)
    counts = run(tmp_path, benchmarks=("one", "two"))
    assert (counts.read, counts.kept, counts.dropped) == (2, 1, {"targets_hidden": 1})
    rows = read_table(tmp_path / "out" / "predictions.parquet", PREDICTIONS).to_pylist()
    first = next(row for row in rows if row["benchmark"] == "one" and row["method"] == "text_only")
    assert first["image_id"] == "i3"
    assert set(read_table(tmp_path / "out" / "scores.parquet", SCORES)["benchmark"].to_pylist()) == {"two"}


def test_tiles_do_not_change_the_answers(tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    turned = Query("r", "i5", "at 4", ("i0",))
    world.add("one", QUERY, turned)
    run(tmp_path / "whole")
    monkeypatch.setattr("tasks.answers.COSINES", 2)
    run(tmp_path / "tiled")
    tables = [read_table(tmp_path / name / "out" / "predictions.parquet", PREDICTIONS) for name in ("whole", "tiled")]
    assert tables[0].equals(tables[1])


def test_benchmarks_and_weights_decide_the_key(tmp_path: Path, world: World) -> None:
    world.add("one", QUERY)
    trained, tokens = inputs(tmp_path, (0,))
    config = EvaluateConfig(benchmarks=("one",))
    assert evaluate_facts(config, trained, tokens) == {"benchmarks": {"one": "one"}, "checkpoint": "weights"}


def test_a_changed_base_checkpoint_is_refused(tmp_path: Path, world: World) -> None:
    def changed(name: str) -> Compass:
        encoder = Compass()
        encoder.digest = "others"
        return encoder

    world.add("one", QUERY)
    world.encoder = changed
    with pytest.raises(ValueError, match="has changed since the images were encoded"):
        run(tmp_path)


def test_a_misspelt_benchmark_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ValueError, match="no benchmark 'circ'; did you mean 'cir"):
        EvaluateConfig(benchmarks=("circ",))
    with pytest.raises(LookupError, match="did you mean 'circo'"):
        data.benchmarks.load_benchmark("circoo")
    with pytest.raises(ValueError, match="each once"):
        EvaluateConfig(benchmarks=("circo", "circo"))


def test_a_real_network_finds_the_reference_itself(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = {f"i{k}": image for k, image in enumerate(noise_images(6))}
    query = Query("q", "i2", "make it red", ("i2",))
    world.add("one", query, protocol={"reference": "keep"}, load_image=pictures.__getitem__)
    trained, _ = inputs(tmp_path, (0,))
    tiny_checkpoint(tmp_path / "base")
    tiny_checkpoint(tmp_path / "trained" / "seed-0", seed=1)
    monkeypatch.setattr(tasks.evaluate, "load_encoder", load_encoder)
    from models.checkpoints import resolve

    base = str(tmp_path / "base")
    facts = {"weights": resolve(base).revision, "dtype": "float32"}
    tokens = sealed(tmp_path / "encoded", "encode", config={"checkpoint": base}, facts=facts)
    out = tmp_path / "out"
    out.mkdir()
    evaluate.fn(out, EvaluateConfig(benchmarks=("one",)), trained, tokens, resources=Resources(batch_size=4))
    assert values(tmp_path)["image_only", "recall@1"] == 100.0
    rows = read_table(out / "predictions.parquet", PREDICTIONS).to_pylist()
    first = next(row for row in rows if row["method"] == "image_only")
    assert first["score"] == pytest.approx(1.0, abs=1e-3)


def test_an_mllm_embeds_in_the_numbers_of_its_training(tmp_path: Path) -> None:
    checkpoint = tiny_llava_folder(tmp_path / "train" / "seed-0")
    facts = {"weights": "w", "dtype": "float32"}
    base = sealed(tmp_path / "embedder", "embedder", config={"checkpoint": str(checkpoint)}, facts=facts)
    for dtype in ("float32", "bfloat16"):
        trained = sealed(tmp_path / "train", "train", config={"seeds": [0]}, facts={"dtype": dtype})
        (one,) = tasks.evaluate._asked(EvaluateConfig(baselines=()), trained, base, {})
        encoder = tasks.evaluate._loaded(one, base, Resources(device="cpu"))
        assert isinstance(encoder, MllmEncoder)
        assert encoder.halved == (dtype == "bfloat16")
