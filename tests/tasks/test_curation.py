"""What people say of triplets is kept, whoever says it when, and makes a data set."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from data.artifact import Artifact
from data.schemas import REJECTED, TRIPLETS
from flows.__main__ import app
from tasks.curate import SAID, CurateConfig, curate
from tasks.curation import Curation, curation_folder, judged_digest
from tests.tasks.view_world import small_world


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIRQUE_HOME", str(tmp_path / "home"))


@pytest.fixture
def triplets(tmp_path: Path, _home: None) -> Artifact:
    return small_world(tmp_path / "photos", triplets=8, texts=(2, 5))


def rows_of(artifact: Artifact) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = artifact.read(TRIPLETS, "triplets.parquet").to_pylist()
    return rows


def test_the_last_word_counts_and_everything_is_remembered(triplets: Artifact) -> None:
    row = rows_of(triplets)[1]
    folder = curation_folder(triplets)
    here = Curation(folder)
    here.say(row, "ann", "approve")
    here.say(row, "ann", "tag", "nice")
    here.say(row, "ann", "edit", "make it green")
    other = Curation(folder)  # another process, or the same after a restart
    assert other.opinion(row).plain() == ["approved", {"modification": "make it green"}, ["nice"]]
    other.say(row, "bob", "reject")
    other.say(row, "bob", "untag", "nice")
    other.say(row, "bob", "edit", "")
    here.refresh()
    assert here.opinion(row).plain() == ["rejected", {}, []]
    assert [said.author for said in here.opinion(row).history] == ["ann"] * 3 + ["bob"] * 3
    assert len(list(folder.iterdir())) == 2
    assert Curation(folder).opinion(row).plain() == ["rejected", {}, []]


def test_two_people_at_once_lose_nothing(triplets: Artifact) -> None:
    """Three processes, each with a name of its own, say something of every triplet at the same time."""
    program = (
        "import sys\nfrom pathlib import Path\nimport pyarrow.parquet as pq\nfrom tasks.curation import Curation\n"
        "rows = pq.read_table(sys.argv[1]).to_pylist()\nmine = Curation(Path(sys.argv[2]))\n"
        "for turn in range(5):\n    for row in rows:\n"
        "        mine.say(row, sys.argv[3], 'tag', f'{sys.argv[3]}{turn}')\n"
    )
    folder = curation_folder(triplets)
    words = [sys.executable, "-c", program, str(triplets.file("triplets.parquet")), str(folder)]
    workers = [subprocess.Popen([*words, name]) for name in ("ann", "bob", "cy")]
    assert [worker.wait(120) for worker in workers] == [0, 0, 0]
    heard = Curation(folder)
    everything = {f"{name}{turn}" for name in ("ann", "bob", "cy") for turn in range(5)}
    assert [heard.opinion(row).tags for row in rows_of(triplets)] == [everything] * 8
    assert heard.torn == 0


def test_what_is_said_of_other_words_does_not_count(triplets: Artifact) -> None:
    row = rows_of(triplets)[1]
    said = Curation(curation_folder(triplets))
    said.say({**row, "modification": "as it was before it was written anew"}, "ann", "approve")
    assert said.opinion(row).plain() == [None, {}, []]


def test_a_line_cut_off_by_a_kill_is_left_out_and_hurts_nobody(triplets: Artifact) -> None:
    row = rows_of(triplets)[1]
    folder = curation_folder(triplets)
    Curation(folder).say(row, "ann", "approve")
    whole = next(folder.iterdir()).read_bytes()
    (folder / "cut.jsonl").write_bytes(b'{"time": "2026"}\n' + whole[: len(whole) // 2])
    heard = Curation(folder)
    assert heard.opinion(row).verdict == "approved"
    assert heard.torn == 1
    heard.say(row, "bob", "reject")
    assert Curation(folder).opinion(row).verdict == "rejected"


@pytest.mark.parametrize(
    ("author", "action", "value", "message"),
    [
        ("  ", "approve", "", "give your name"),
        ("ann", "tag", " ", "the tag is empty"),
        ("ann", "edit", "x" * 2001, "2,001 characters"),
        ("ann", "edit", "make it green and turn it 1 times", "the words are those"),
        ("ann", "edit_target", "another square", "triplet t0001 has no target_text"),
    ],
)
def test_what_makes_no_sense_is_not_written(
    triplets: Artifact, author: str, action: Any, value: str, message: str
) -> None:
    said = Curation(curation_folder(triplets))
    with pytest.raises(ValueError, match=message):
        said.say(rows_of(triplets)[1], author, action, value)
    assert not curation_folder(triplets).exists()


def test_descendants_share_what_was_said(triplets: Artifact) -> None:
    source = triplets.manifest["inputs"]["triplets"]
    assert curation_folder(triplets).parts[-2:] == ("generate", source["key"][:20])
    kept = curate.make(CurateConfig(), triplets).artifact
    assert curation_folder(kept) == curation_folder(triplets)


def test_approved_triplets_go_on_in_the_words_they_were_given(triplets: Artifact) -> None:
    rows = rows_of(triplets)
    said = Curation(curation_folder(triplets))
    said.say(rows[1], "ann", "approve")
    said.say(rows[2], "bob", "approve")
    said.say(rows[2], "ann", "edit", "make it blue, please")
    said.say(rows[3], "ann", "reject")
    made = curate.make(CurateConfig(verdict="approved"), triplets)
    assert rows_of(made.artifact) == [rows[1], {**rows[2], "modification": "make it blue, please"}]
    assert made.artifact.counts.dropped == {"not_judged": 5, "rejected": 1}
    told = made.artifact.read(SAID, "said.parquet").to_pylist()
    assert [(row["triplet_id"], row["authors"]) for row in told] == [("t0001", ["ann"]), ("t0002", ["ann", "bob"])]
    assert told[1]["original"] == rows[2]["modification"]
    gone = made.artifact.read(REJECTED, "rejected.parquet").to_pylist()
    assert next(row for row in gone if row["reason"] == "rejected")["detail"].startswith("by ann, 20")
    kept = curate.make(CurateConfig(verdict="not_rejected"), triplets).artifact
    assert [row["triplet_id"] for row in rows_of(kept)] == [
        "t0000",
        "t0001",
        "t0002",
        "t0004",
        "t0005",
        "t0006",
        "t0007",
    ]


def test_a_target_text_is_edited_like_a_modification(triplets: Artifact) -> None:
    rows = rows_of(triplets)
    said = Curation(curation_folder(triplets))
    with pytest.raises(ValueError, match="the words are those that the triplet has already"):
        said.say(rows[2], "ann", "edit_target", "a square that was turned 2 times")
    said.say(rows[2], "ann", "edit_target", "a blue square")
    said.say(rows[5], "ann", "edit_target", "a white square")
    said.say(rows[5], "ann", "edit", "make it white")
    said.say(rows[5], "bob", "edit_target", "")  # back to the original
    again = Curation(curation_folder(triplets))
    assert again.opinion(rows[2]).plain() == [None, {"target_text": "a blue square"}, []]
    assert again.opinion(rows[2]).history[0].author == "ann"
    made = curate.make(CurateConfig(verdict="not_rejected"), triplets)
    changed = {2: {"target_text": "a blue square"}, 5: {"modification": "make it white"}}
    assert rows_of(made.artifact) == [{**row, **changed.get(place, {})} for place, row in enumerate(rows)]
    assert made.artifact.counts.detail == {"edited": 1, "edited_target_texts": 1, "judged": 2}
    told = made.artifact.read(SAID, "said.parquet").to_pylist()
    assert [(row["original"], row["original_target_text"]) for row in told] == [
        (None, "a square that was turned 2 times"),
        (rows[5]["modification"], None),
    ]
    said.say(rows[2], "bob", "edit_target", "a square in blue")
    assert curate.make(CurateConfig(verdict="not_rejected"), triplets).state == "ran"


def test_what_is_said_decides_the_key_and_only_where_it_matters(triplets: Artifact) -> None:
    rows = rows_of(triplets)
    said = Curation(curation_folder(triplets))
    everything = curate.make(CurateConfig(), triplets)
    assert rows_of(everything.artifact) == rows
    said.say(rows[1], "ann", "approve")
    first = curate.make(CurateConfig(verdict="approved"), triplets)
    said.say(rows[1], "bob", "approve")  # nothing new
    assert curate.make(CurateConfig(verdict="approved"), triplets).state == "cached"
    said.say(rows[4], "bob", "approve")
    second = curate.make(CurateConfig(verdict="approved"), triplets)
    assert (second.state, second.artifact.counts.kept) == ("ran", 2)
    assert first.artifact.key != second.artifact.key
    assert curate.make(CurateConfig(), triplets).state == "cached"


def test_nothing_approved_is_an_error_that_says_what_to_do(triplets: Artifact) -> None:
    with pytest.raises(ValueError, match="none of 8 triplets is approved; approve some with: python -m flows view"):
        curate.make(CurateConfig(verdict="approved"), triplets)


def test_lines_are_plain_json(triplets: Artifact) -> None:
    row = rows_of(triplets)[1]
    Curation(curation_folder(triplets)).say(row, "Zoë  Ö.", "approve")
    path = next(curation_folder(triplets).iterdir())
    line = json.loads(path.read_text(encoding="utf-8"))
    assert (line["author"], line["action"], line["of"]) == ("Zoë Ö.", "approve", judged_digest(row))
    assert pq.read_table(triplets.file("triplets.parquet")).num_rows == 8


def test_export_takes_what_was_approved(triplets: Artifact, tmp_path: Path) -> None:
    rows = rows_of(triplets)
    said = Curation(curation_folder(triplets))
    said.say(rows[2], "ann", "approve")
    said.say(rows[2], "ann", "edit", "make it blue, please")
    said.say(rows[2], "ann", "edit_target", "a blue square")
    words = ["export", str(triplets.path), "--to", str(tmp_path / "out"), "--verdict", "approved"]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert (result.exit_code, result.stderr) == (0, "")
    written = pq.read_table(tmp_path / "out" / "data" / "train-00000-of-00001.parquet").to_pylist()
    assert [(row["triplet_id"], row["modification"], row["target_text"]) for row in written] == [
        ("t0002", "make it blue, please", "a blue square")
    ]
    assert "| curate | 8 | 1 | not_judged 7 | 1 |" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
