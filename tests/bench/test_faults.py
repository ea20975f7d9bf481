"""A short campaign against the toy recipe, which needs no model; and that the checks find what they look for."""

import json
import random
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.fault_checks import Difference, broken_invariants, difference
from bench.fault_kinds import OTHERS, Broken, Subject, deleted_artifact, flipped_feature
from bench.faults import SMALL, Campaign, campaign
from flows.overrides import configure
from flows.recipe import load_recipe
from flows.server import local_server
from tasks.features import Features
from tasks.runs import load_run
from tests.flows.runs import run_toy

TOY = [sys.executable, "-m", "tests.flows.toy_command"]


@pytest.mark.slow
def test_short_campaign_loses_nothing_and_is_not_done_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIRQUE_HOME", str(tmp_path / "server"))
    said: list[str] = []
    with local_server() as server:
        server.wait()
        found = campaign(TOY, tmp_path / "campaign", kills=2, chain=2, seed=0, say=said.append)
        again = campaign(TOY, tmp_path / "campaign", kills=2, chain=2, seed=0, say=said.append)
    assert (found["kills"], found["rows_lost"], found["rows_doubled"], found["rows_changed"]) == (2, 0, 0, 0)
    words = {name: word.split(" (")[0] for name, word in found["faults"].items()}
    assert words.pop("full_disk").split(":")[0] in ("survived", "not tried")
    assert words.pop("truncated_part").split(":")[0] in ("survived", "not tried")  # the toy's parts are no tables
    assert words == dict.fromkeys(("kill_chain_0", "deleted_artifact", "flipped_byte", "two_at_once"), "survived")
    assert len(said) == 1 + len(OTHERS)  # the second campaign had nothing left to do
    assert found["faults"] == again["faults"]
    json.dumps(found)


def test_small_run_is_one_of_the_recipe() -> None:
    config = configure(load_recipe("mra_cir").config, SMALL)
    assert config.model_dump()["ingest"]["images"] == 200


def test_fault_is_left_for_another_time_when_time_is_over(tmp_path: Path) -> None:
    (tmp_path / "campaign.json").write_text(json.dumps({"command": TOY, "seconds": [1, 1], "done": {}}))
    said: list[str] = []
    late = Campaign(TOY, tmp_path, 0, said.append, until=0.0)
    late.fault("deleted_artifact", deleted_artifact)
    assert said == ["deleted_artifact: left for another time"]
    assert late.report()["faults"] == {}


def table(path: Path, *rows: tuple[str, int, float]) -> None:
    columns = dict(zip(("image_id", "rank", "score"), zip(*rows, strict=True), strict=True))
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def test_lost_doubled_and_changed_rows_are_counted(store: Path, tmp_path: Path) -> None:
    record = load_run(run_toy())
    other = tmp_path / "other"
    for row in record.stages:
        (other / str(row.artifact)).mkdir(parents=True)
    mine, theirs = (home / str(record.stages[0].artifact) / "images.parquet" for home in (store, other))
    table(mine, ("a", 1, 0.5), ("a", 2, 0.25), ("b", 1, 0.5), ("b", 2, 0.1))
    table(theirs, ("a", 1, 0.5), ("a", 1, 0.5), ("b", 1, 0.7), ("b", 2, 0.1))
    scores = Path(str(record.stages[2].artifact)) / "scores.parquet"
    (other / scores).write_bytes((store / scores).read_bytes())
    # ("a", 2) is lost, ("a", 1) is there twice, ("b", 1) has another score
    assert difference(store, record, other, record) == Difference(lost=1, doubled=1, changed=1)
    assert difference(store, record, store, record).spelt() == "survived"


def test_checks_find_damage_and_double_answers(store: Path) -> None:
    run_toy()
    assert broken_invariants(store) == []
    for name in ("1.parquet", "2.parquet"):
        (store / "ledger/m/p").mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"request_id": ["r1"]}), store / "ledger/m/p" / name)
    next(store.glob("store/double/*/product")).write_text("21")
    found = broken_invariants(store)
    assert [fault.split(": ")[1] for fault in found] == [
        "product has other bytes than were sealed", "request r1 has 2 answers"
    ]  # fmt: skip


class Encoding(Subject):
    """In the place of a command: the kept tokens of "a" are wanted, and looked at or used as they are."""

    careful = True

    def finish(self, *more: str) -> float:
        assert more == ("--rerun", "encode", "--until", "encode")
        folder = self.home / "features/tokens-1"
        if self.careful and Features(folder).missing(["a"]):
            Features(folder).add(["a"], np.ones((1, 2, 3), dtype=np.float16))
        return 0.0


@pytest.mark.parametrize("seed", range(8))
def test_flipped_byte_of_the_features_has_to_be_found(tmp_path: Path, seed: int) -> None:
    Features(tmp_path / "features/tokens-1").add(["a"], np.ones((1, 2, 3), dtype=np.float16))
    subject = Encoding([], tmp_path)
    flipped_feature(subject, random.Random(seed))
    assert Features(tmp_path / "features/tokens-1").take(["a"]).tolist() == np.ones((1, 2, 3)).tolist()
    next(tmp_path.rglob("*.torn")).unlink()
    subject.careful = False
    with pytest.raises(Broken, match="was used with a flipped byte"):
        flipped_feature(subject, random.Random(seed))


def test_run_that_fails_before_its_kill_is_told(tmp_path: Path) -> None:
    failing = [sys.executable, "-c", "raise SystemExit('it cannot go on')"]
    (tmp_path / "campaign.json").write_text(json.dumps({"command": failing, "seconds": [1, 1000], "done": {}}))
    whole = Campaign(failing, tmp_path, 0, lambda text: None)  # which draws kills from 1,000 seconds
    whole.fault("kill_chain_0", whole.chain(1))
    assert whole.report()["faults"] == {"kill_chain_0": "failed: the command ended with 1: it cannot go on"}
    assert Subject([sys.executable, "-c", ""], tmp_path).kill_after(60) is False


def test_fault_that_is_not_survived_is_told(tmp_path: Path) -> None:
    failing = [sys.executable, "-c", "raise SystemExit('no power')"]
    with pytest.raises(Broken, match="ended with 1: no power"):
        deleted_artifact(Subject(failing, tmp_path / "store"), random.Random(0))
    (tmp_path / "campaign.json").write_text(json.dumps({"command": failing, "seconds": [1, 1], "done": {}}))
    whole = Campaign(failing, tmp_path, 0, lambda text: None)
    whole.fault("deleted_artifact", deleted_artifact)
    assert whole.report()["faults"]["deleted_artifact"].startswith("failed: the command ended with 1")
    with pytest.raises(ValueError, match="holds a campaign of another command"):
        Campaign(TOY, tmp_path, 0, lambda text: None)
