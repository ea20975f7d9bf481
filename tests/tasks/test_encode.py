"""Encode: what it writes, what it computes anew, and what stops it."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from data.artifact import Counts, DamagedFile, write_table
from data.config import Resources
from data.places import Span, uri_of
from data.schemas import IMAGES
from data.tokens import read_tokens
from models.checkpoints import resolve
from models.encoders.blip2 import Blip2Encoder
from tasks import features, room
from tasks.encode import EncodeConfig, encode, encode_facts
from tests.models.tiny_blip2 import noise_images, tiny_checkpoint
from tests.tasks.small_artifacts import images_artifact, sealed

RESOURCES = Resources(batch_size=4, workers=2, device="cpu")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_checkpoint(tmp_path_factory.mktemp("checkpoint")))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CIRQUE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def run(folder: Path, checkpoint: str, count: int, out: str = "out", **config: Any) -> tuple[Counts, Path]:
    images = images_artifact(folder, count)
    settings = EncodeConfig(checkpoint=checkpoint, **config)
    target = folder / out
    target.mkdir(exist_ok=True)
    return encode.fn(target, settings, images, facts=encode_facts(settings, images), resources=RESOURCES), target


def test_tokens_are_those_of_the_encoder_in_half_precision(tmp_path: Path, checkpoint: str) -> None:
    counts, out = run(tmp_path, checkpoint, 10)
    ids, tokens = read_tokens(out / "tokens.arrow")
    encoder = Blip2Encoder.load(checkpoint)
    with torch.no_grad():
        expected = encoder.image_tokens(encoder.vision(noise_images(10))).tokens.numpy()
    assert ids == [f"image-{index:03d}" for index in range(10)]
    np.testing.assert_allclose(tokens, expected, atol=1e-3)
    assert [path.name for path in out.iterdir()] == ["tokens.arrow"]
    assert (counts.read, counts.kept, counts.written) == (10, 10, 10)
    assert counts.detail == {"encoded": 10, "reused": 0, "tokens": 4, "dim": 8}


def test_new_images_encode_only_themselves(tmp_path: Path, checkpoint: str) -> None:
    run(tmp_path, checkpoint, 6)
    counts, out = run(tmp_path, checkpoint, 9, "second")
    assert counts.detail["encoded"] == 3
    assert counts.detail["reused"] == 6
    first, second = (read_tokens(tmp_path / name / "tokens.arrow") for name in ("out", "second"))
    assert second[0][:6] == first[0]
    assert np.array_equal(second[1][:6], first[1])
    again, _ = run(tmp_path, checkpoint, 9, "third")
    assert again.detail["encoded"] == 0
    assert (tmp_path / "third/tokens.arrow").read_bytes() == (out / "tokens.arrow").read_bytes()


def test_another_checkpoint_or_dtype_shares_nothing(tmp_path: Path, checkpoint: str) -> None:
    run(tmp_path, checkpoint, 3)
    other = str(tiny_checkpoint(tmp_path / "other", seed=1))
    assert run(tmp_path, other, 3, "a")[0].detail["encoded"] == 3
    assert run(tmp_path, checkpoint, 3, "b", dtype="bfloat16")[0].detail["encoded"] == 3
    assert run(tmp_path, checkpoint, 3, "c", dtype="float32")[0].detail["encoded"] == 0  # "auto" on a CPU


def test_an_interrupted_run_continues_after_its_last_part(
    tmp_path: Path, checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "PART_BYTES", 1)  # a part per batch of 4
    whole = features._forward
    calls = 0

    def killed(forward: Callable[[Tensor], Tensor], pixels: Tensor, batch: list[features.Picture]) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return whole(forward, pixels, batch)

    monkeypatch.setattr(features, "_forward", killed)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, checkpoint, 10)
    monkeypatch.setattr(features, "_forward", whole)
    counts, out = run(tmp_path, checkpoint, 10)
    assert (counts.detail["encoded"], counts.detail["reused"]) == (2, 8)
    monkeypatch.setenv("CIRQUE_HOME", str(tmp_path / "elsewhere"))
    run(tmp_path, checkpoint, 10, "uninterrupted")
    assert (out / "tokens.arrow").read_bytes() == (tmp_path / "uninterrupted/tokens.arrow").read_bytes()


def test_what_cannot_fit_is_said_before_the_first_batch(
    tmp_path: Path, checkpoint: str, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    monkeypatch.setattr(room, "available_memory", lambda: 60_000)  # an image of 30 x 30 pixels alone is 10,800 bytes
    with pytest.raises(MemoryError, match=r"a batch of 4 images needs .* kB available; set resources.batch_size to \d"):
        run(tmp_path, checkpoint, 10)
    assert not list(home.rglob("*.arrow"))
    monkeypatch.undo()
    monkeypatch.setenv("CIRQUE_HOME", str(home))
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 500})())
    with pytest.raises(OSError, match=r"the features of 10 images needs 640 B, 500 B free"):  # 10 of 4 tokens of 8
        run(tmp_path, checkpoint, 10)
    assert not list(home.rglob("*.arrow"))


def test_the_facts_are_the_weights_and_the_dtype(tmp_path: Path, checkpoint: str) -> None:
    images = images_artifact(tmp_path, 1)
    facts = encode_facts(EncodeConfig(checkpoint=checkpoint), images)
    assert facts["weights"] == resolve(checkpoint).revision
    assert facts["dtype"] == ("float16" if torch.cuda.is_available() else "float32")
    assert encode_facts(EncodeConfig(checkpoint=checkpoint, dtype="bfloat16"), images)["dtype"] == "bfloat16"


def test_a_changed_or_lost_file_is_named(tmp_path: Path, checkpoint: str) -> None:
    images = images_artifact(tmp_path, 3)
    config = EncodeConfig(checkpoint=checkpoint)
    facts = encode_facts(config, images)
    noise_images(1, seed=9)[0].save(tmp_path / "files/image-001.png")
    with pytest.raises(ValueError, match=r"'image-001' .* changed since it was ingested; run again with --rerun ing"):
        encode.fn(tmp_path, config, images, facts=facts, resources=RESOURCES)
    (tmp_path / "files/image-001.png").unlink()
    with pytest.raises(ValueError, match=r"'image-001' .* not now .*No such file"):
        encode.fn(tmp_path, config, images, facts=facts, resources=RESOURCES)


def test_an_image_in_a_tar_is_read_there_and_filed_under_its_bytes(tmp_path: Path, checkpoint: str) -> None:
    """Two copies of one original, resized in two ways, have features of their own."""
    files = [path.read_bytes() for path in images_artifact(tmp_path / "as", 2).path.parent.glob("files/*.png")]
    tar = tmp_path / "shard.tar"
    tar.write_bytes(b"".join(files))
    starts = (0, len(files[0]))
    rows = [
        {
            **{"image_id": f"{n}", "uri": uri_of(Span(tar, start, len(content))), "width": 30, "height": 30},
            **{"sha256": "0" * 64, "stored_sha256": hashlib.sha256(content).hexdigest()},
        }
        for n, (start, content) in enumerate(zip(starts, files, strict=True))
    ]
    write_table(tmp_path / "ingest/images.parquet", pa.Table.from_pylist(rows, schema=IMAGES), IMAGES)
    images = sealed(tmp_path / "ingest", "ingest", 2)
    config = EncodeConfig(checkpoint=checkpoint)
    (tmp_path / "out").mkdir()
    counts = encode.fn(tmp_path / "out", config, images, facts=encode_facts(config, images), resources=RESOURCES)
    assert counts.detail["encoded"] == 2
    _, tokens = read_tokens(tmp_path / "out/tokens.arrow")
    assert not np.allclose(tokens[0], tokens[1])
    tar.write_bytes(b"".join(reversed(files)))
    with pytest.raises(ValueError, match=r"image '0' .* changed since it was ingested"):
        features._read(images, features.pictures(images)[0])


def test_a_stored_image_is_taken_whatever_its_original_was(tmp_path: Path, checkpoint: str) -> None:
    """An image inside the artifact may carry the digest of the original that it was made from."""
    images = images_artifact(tmp_path, 1)
    (tmp_path / "ingest/images").mkdir()
    noise_images(1)[0].save(images.path / "images/a.png")
    row = features.Picture("a", "images/a.png", hashlib.sha256(b"the original").hexdigest())
    encoder = Blip2Encoder.load(checkpoint)
    store = features.Features(tmp_path / "features")
    assert features.compute(store, images, [row], encoder, encoder.vision_of, RESOURCES) == 1
    with torch.no_grad():
        expected = encoder.vision(noise_images(1)).numpy()
    np.testing.assert_allclose(store.take([row.sha256]), expected, atol=5e-3)


def test_features_that_are_not_finite_name_the_image(tmp_path: Path, checkpoint: str) -> None:
    images = images_artifact(tmp_path, 3)
    encoder = Blip2Encoder.load(checkpoint)

    def overflowing(pixels: Tensor) -> Tensor:
        vision = encoder.vision_of(pixels)
        vision[2:] *= 1e6  # above 65,504, the greatest half float
        return vision

    rows = features.pictures(images)
    with pytest.raises(ValueError, match=r"image 'image-002' at .* not finite"):
        features.compute(features.Features(tmp_path / "f"), images, rows, encoder, overflowing, RESOURCES)


def test_images_with_the_same_bytes_are_computed_once(tmp_path: Path, checkpoint: str) -> None:
    images = images_artifact(tmp_path, 2)
    rows = features.pictures(images)
    encoder = Blip2Encoder.load(checkpoint)
    store = features.Features(tmp_path / "features")
    twice = [*rows, rows[0]._replace(image_id="copy")]
    assert features.compute(store, images, twice, encoder, encoder.vision_of, RESOURCES) == 2
    with pytest.raises(KeyError, match="absent"):
        store.take(["absent"])


def test_a_damaged_part_is_set_aside_and_its_features_are_missing_again(tmp_path: Path) -> None:
    store = features.Features(tmp_path)
    store.add(["b", "a"], np.arange(12, dtype=np.float16).reshape(2, 2, 3))
    assert store.take(["a", "b"])[:, 0, 0].tolist() == [6, 0]
    assert store.missing(["a", "c"]) == {"c"}
    part = next(tmp_path.glob("*.arrow"))
    part.write_bytes(part.read_bytes()[:100])
    assert features.Features(tmp_path).missing(["a", "b"]) == {"a", "b"}
    assert [path.suffix for path in tmp_path.iterdir()] == [".torn"]


def flip(path: Path, content: bytes) -> None:
    """Flip the last bit of the first byte of some content of a file."""
    whole = bytearray(path.read_bytes())
    whole[whole.index(content)] ^= 1
    path.write_bytes(whole)


def test_a_part_with_a_flipped_bit_is_set_aside_before_anything_of_it_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    array = np.random.default_rng(0).standard_normal((3, 2, 3)).astype(np.float16)
    store = features.Features(tmp_path)
    store.add(["a", "b"], array[:2])
    store.add(["c"], array[2:])
    (part,) = (path for path in tmp_path.iterdir() if read_tokens(path)[0] == ["a", "b"])
    flip(part, array[1].tobytes())
    later, careless = features.Features(tmp_path), features.Features(tmp_path)
    assert later.missing(["c"]) == set()
    assert caplog.text == ""  # what nobody wants is not read
    assert later.missing(["a", "b", "c"]) == {"a", "b"}
    assert f"{part.name} has other bytes than were written; it is set aside as {part.stem}.torn" in caplog.text
    with pytest.raises(DamagedFile, match="is set aside; run the same command again"):
        careless.take(["a"])  # opened before
    later.add(["a", "b"], array[:2])
    for opened in (later, features.Features(tmp_path)):
        assert np.array_equal(opened.take(["a", "b", "c"]), array)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".arrow", ".arrow", ".torn"]


def test_a_damaged_part_that_another_process_made_anew_is_read_anew(tmp_path: Path) -> None:
    array = np.ones((1, 2, 3), dtype=np.float16)
    features.Features(tmp_path).add(["a"], array)
    (part,) = tmp_path.iterdir()
    flip(part, array.tobytes())
    opened, other = features.Features(tmp_path), features.Features(tmp_path)
    assert other.missing(["a"]) == {"a"}
    other.add(["a"], array)
    assert part.exists()  # the same features have the same name
    assert np.array_equal(opened.take(["a"]), array)


def test_a_part_of_an_older_store_is_read(tmp_path: Path) -> None:
    features.Features(tmp_path).add(["a"], np.ones((1, 2, 3), dtype=np.float16))
    (part,) = tmp_path.iterdir()
    part.rename(tmp_path / f"{part.name.split('.')[0]}.arrow")
    store = features.Features(tmp_path)
    assert store.missing(["a"]) == set()
    assert store.take(["a"]).tolist() == np.ones((1, 2, 3)).tolist()


def test_a_part_with_a_flipped_bit_in_a_key_is_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    features.Features(tmp_path).add(["mountain"], np.ones((1, 2, 3), dtype=np.float16))
    flip(next(tmp_path.iterdir()), b"mountain")
    store = features.Features(tmp_path)
    assert store.missing(["mountain"]) == {"mountain"}
    assert store.missing(["lountain"]) == {"lountain"}
    assert "holds features of other images than were written; it is set aside" in caplog.text


def test_half_precision_is_not_run_on_a_cpu_by_accident() -> None:
    from tasks.encode import refuse_half_on_cpu

    with pytest.raises(ValueError, match="set dtype=float32"):
        refuse_half_on_cpu("auto", "float16", RESOURCES)
    refuse_half_on_cpu("float16", "float16", RESOURCES)  # asked for
