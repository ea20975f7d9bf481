"""The generate stage against endpoints that fail in every way: each row accounted for, nothing secret written."""

import base64
import io
import json
import random
import shutil
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from data.artifact import Artifact
from data.config import Resources
from data.schemas import GENERATIONS, IMAGES, REJECTED, TRIPLETS
from models.backends import Engine
from models.backends import openai as backend
from tasks.generate import generate
from tasks.pool import Pool
from tasks.runs import RunError, start_run
from tests.models.endpoints import Reply, good, serving, trouble
from tests.tasks.scripted_generate import CHUNK, config_of, small_images, small_pairs

KEY = "key-that-nobody-may-see"
FAULTS = [
    trouble(429),
    trouble(500),
    trouble(503, Retry_After="0"),
    Reply("<html>", kind="text/html"),
    Reply(good("x").body, cut=20),
    Reply(None),
    Reply("{}", seconds=1.5),  # longer than the limit
    good('{"caption": "half a', "length"),
    good("I'm sorry, I cannot help with that."),
    good(""),
    good("no object"),
    good("", refusal="I cannot describe people"),
]


@pytest.fixture(autouse=True)
def _settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIRQUE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CIRQUE_API_KEY", KEY)
    monkeypatch.setattr(backend, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(backend, "_LONGEST_PAUSE", 0.05)


def inputs(folder: Path, images: int, **fields: Any) -> tuple[Any, Artifact, Artifact]:
    config = config_of(Path("owner/served@r1"), backend="openai", **fields)
    return config, small_pairs(folder / "pairs", images, 3), small_images(folder / "images", images)


def answers(body: dict[str, Any]) -> str:
    """A good answer to either of the two prompts, different whenever the request is."""
    mark = f"{random.Random(json.dumps(body['messages'])).getrandbits(40):x}"
    return json.dumps({"caption": f"a thing {mark}", "modification": f"make it {mark}"})


def ledger_rows(home: Path) -> list[dict[str, Any]]:
    return [row for path in home.glob("ledger/**/*.parquet") for row in pq.read_table(path).to_pylist()]


def test_a_server_that_fails_in_every_way_loses_no_row(tmp_path: Path) -> None:
    def decide(body: dict[str, Any], before: int) -> Reply:
        rng = random.Random(f"{json.dumps(body['messages'])}/{before}")
        return good(answers(body)) if rng.random() < 0.5 else rng.choice(FAULTS)

    config, pairs, images = inputs(tmp_path, 24, retries=1)
    with serving(decide) as server:
        resources = Resources(
            chunk=CHUNK, endpoints=(server.url,), concurrency=CHUNK, request_timeout=1.0, patience=1e6
        )
        artifact = generate.make(config, pairs, images, resources=resources).artifact
    triplets = artifact.read(TRIPLETS, "triplets.parquet").to_pylist()
    rejected = artifact.read(REJECTED, "rejected.parquet").to_pylist()
    generations = artifact.read(GENERATIONS, "generations.parquet").to_pylist()
    counts = artifact.counts
    ids = [row["pair_id"] for row in triplets] + [row["row_id"] for row in rejected]
    assert sorted(ids) == sorted(row["pair_id"] for row in pq.read_table(pairs.file("pairs.parquet")).to_pylist())
    assert (counts.read, counts.kept) == (24, len(triplets))
    assert counts.dropped == Counter(row["reason"] for row in rejected)
    reasons = {reason.removeprefix("caption_") for reason in counts.dropped}
    assert reasons <= {"cut_off", "refusal", "empty", "unparsable", "engine_error"}
    assert triplets
    assert rejected
    assert all(row["modification"].startswith("make it ") for row in triplets)
    kept = ledger_rows(tmp_path / "home")
    assert len({row["request_id"] for row in kept}) == len(kept)
    assert {row["request_id"] for row in generations if row["finish_reason"] != "error"} == {
        row["request_id"] for row in kept
    }


def test_what_was_answered_before_all_endpoints_died_is_not_asked_again(tmp_path: Path) -> None:
    served = 0

    def dies(body: dict[str, Any], before: int) -> Reply:
        nonlocal served
        served += 1
        return good(answers(body)) if served <= CHUNK + 3 else trouble(401)

    config, pairs, images = inputs(tmp_path, 12)
    with serving(dies) as server:
        resources = Resources(chunk=CHUNK, endpoints=(server.url,), concurrency=1)
        with pytest.raises(RuntimeError, match="CIRQUE_API_KEY"):
            generate.make(config, pairs, images, resources=resources)
    assert len(ledger_rows(tmp_path / "home")) == CHUNK + 3
    with serving(lambda body, before: good(answers(body))) as server:
        resources = Resources(chunk=CHUNK, endpoints=(server.url,))
        artifact = generate.make(config, pairs, images, resources=resources).artifact
        assert len(server.bodies) == 24 - (CHUNK + 3)
    assert (artifact.counts.kept, artifact.counts.detail["reused"]) == (12, CHUNK + 3)


def test_another_place_of_the_same_model_is_not_another_artifact(tmp_path: Path) -> None:
    config, pairs, images = inputs(tmp_path, 6)
    with serving(lambda body, before: good(answers(body))) as server:
        first = generate.make(config, pairs, images, resources=Resources(endpoints=(server.url,)))
    again = generate.make(config, pairs, images, resources=Resources(endpoints=("http://elsewhere:1/v1",)))
    assert again.artifact.path == first.artifact.path
    origins = [row["provenance"] for row in first.artifact.read(TRIPLETS, "triplets.parquet").to_pylist()]
    assert {(origin["model"], origin["revision"]) for origin in origins} == {("owner/served", "r1")}


@pytest.mark.parametrize("status", [400, 401])
def test_a_failed_run_records_neither_key_nor_image(tmp_path: Path, status: int) -> None:
    """The server sends back all that it got."""
    sent: list[str] = []

    def talkative(body: dict[str, Any], before: int) -> Reply:
        sent.append(body["messages"][0]["content"][0]["image_url"]["url"].partition(",")[2])
        return trouble(status, f"Bearer {KEY}: {json.dumps(body)}")

    config, pairs, images = inputs(tmp_path, 6)
    with (
        serving(talkative) as server,
        pytest.raises(RunError, match=f"status {status}"),
        start_run("toy", ["generate"], config, (), None),
    ):
        generate.make(config, pairs, images, resources=Resources(endpoints=(server.url,)))
    written = [path for path in (tmp_path / "home").rglob("*") if path.is_file()]
    assert {"log.jsonl", "run.json"} <= {path.name for path in written}
    for path in written:
        content = path.read_bytes()
        assert KEY.encode() not in content
        assert not any(image[20:80].encode() in content for image in sent)


def test_rows_that_are_refused_every_time_are_dropped_every_time(tmp_path: Path) -> None:
    """Also where they are all that is left to ask."""
    config, pairs, images = inputs(tmp_path, 12)
    shown = ""

    def refuses(body: dict[str, Any], before: int) -> Reply:
        nonlocal shown
        image = json.dumps(body["messages"][0]["content"][0])
        shown = shown or image
        return trouble(400, "bad picture") if image == shown else good(answers(body))

    with serving(refuses) as server:
        resources = Resources(chunk=CHUNK, endpoints=(server.url,))
        first = generate.make(config, pairs, images, resources=resources).artifact
        before, dropped, asked = first.content, first.counts.dropped, len(server.bodies)
        shutil.rmtree(tmp_path / "home" / "store")
        again = generate.make(config, pairs, images, resources=resources).artifact
    assert dropped["caption_engine_error"] > 0
    assert (again.content, again.counts.dropped) == (before, dropped)
    assert len(server.bodies) - asked < asked / 2
    rejected = again.read(REJECTED, "rejected.parquet").to_pylist()
    assert {row["detail"] for row in rejected} == {f"{server.url}: status 400: bad picture"}


@pytest.mark.parametrize(
    ("refusal", "match"),
    [
        (
            trouble(422, "no such model_args"),
            r"owner/served answered none of [0-9]+ requests in a row, the last: .* no such model_args",
        ),
        (
            trouble(500, "engine dead"),
            r"answered none of [0-9]+ requests in a row, the last: no answer after 5 attempts.* engine dead",
        ),
        (trouble(400, "maximum context length is 9 tokens"), r"in a row, the last: .* maximum context length is 9"),
    ],
)
def test_a_server_that_answers_nothing_stops_the_run(refusal: Reply, match: str, tmp_path: Path) -> None:
    """From the beginning, and once it has answered some; nothing of it is kept, so that a better server can go on."""
    config, pairs, images = inputs(tmp_path, 4 * CHUNK)
    served = 0

    def breaks(body: dict[str, Any], before: int) -> Reply:
        nonlocal served
        served += 1
        return good(answers(body)) if served <= CHUNK else refusal

    with serving(lambda body, before: refusal) as dead, pytest.raises(RuntimeError, match=match):
        generate.make(config, pairs, images, resources=Resources(chunk=CHUNK, endpoints=(dead.url,)))
    with serving(breaks) as broken, pytest.raises(RuntimeError, match=match):
        generate.make(config, pairs, images, resources=Resources(chunk=CHUNK, endpoints=(broken.url,)))
    with serving(lambda body, before: good(answers(body))) as well:
        artifact = generate.make(
            config, pairs, images, resources=Resources(chunk=CHUNK, endpoints=(well.url,))
        ).artifact
    assert artifact.counts.kept == artifact.counts.read
    assert artifact.counts.detail["reused"] == CHUNK


def test_more_rows_than_a_chunk_may_be_refused_where_the_rest_is_answered_already(tmp_path: Path) -> None:
    config, pairs, images = inputs(tmp_path, 96)

    def refuses(body: dict[str, Any], before: int) -> Reply:
        first = json.dumps(body["messages"][0]["content"][0])
        return trouble(400, "bad picture") if zlib.crc32(first.encode()) % 16 == 0 else good(answers(body))

    with serving(refuses) as server:
        resources = Resources(chunk=2, endpoints=(server.url,))
        first = generate.make(config, pairs, images, resources=resources).artifact.counts.dropped
        shutil.rmtree(tmp_path / "home" / "store")
        again = generate.make(config, pairs, images, resources=resources).artifact.counts.dropped
    assert first == again
    assert first["caption_engine_error"] > 4


def test_what_a_worker_was_refused_is_not_asked_again_by_the_run_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it is all that the last shard has."""
    config, pairs, images = inputs(tmp_path, 9)
    last = images.read(IMAGES, "images.parquet")["image_id"][8].as_py()

    def in_turn(name: str, work: Any, jobs: Any, resources: Resources) -> Any:
        with ThreadPoolExecutor(1) as worker:
            yield from ((job, worker.submit(work, job).result()) for job in jobs)

    def refuses(body: dict[str, Any], before: int) -> Reply:
        return trouble(400, "bad picture") if shown(body) == digests[last] else good(answers(body))

    def shown(body: dict[str, Any]) -> bytes:
        url = body["messages"][0]["content"][0]["image_url"]["url"]
        return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).tobytes()

    pool = Pool(images, Engine())
    digests = {image_id: pool[image_id].load().tobytes() for image_id in pool}
    monkeypatch.setattr("tasks.asking.spread", in_turn)
    with serving(refuses) as server:
        resources = Resources(chunk=CHUNK, endpoints=(server.url,), spread="threads", shard=8, spread_workers=1)
        counts = generate.make(config, pairs, images, resources=resources).artifact.counts
    assert counts.dropped["caption_engine_error"] >= 1
    assert len(server.bodies) == counts.detail["asked"]
    assert counts.detail["reused"] == 0
