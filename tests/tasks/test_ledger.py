"""The ledger keeps every answer once, across processes, kills and damage."""

import logging
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from data.artifact import TEMPORARY
from tasks.ledger import Entry, Ledger

ROOT = Path(__file__).parents[2]
WRITER = """
import sys
from pathlib import Path
from tests.tasks.test_ledger import entry, ledger
writer, first, count = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
mine = ledger(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for start in range(first, first + count, 5):
    mine.append([entry(number, text=writer) for number in range(start, start + 5)])
"""


def name(number: int) -> str:
    return sha256(str(number).encode()).hexdigest()


def entry(number: int, text: str = "") -> Entry:
    return Entry(
        request_id=name(number),
        prompt="caption",
        prompt_digest="d" * 64,
        model="owner/model",
        revision="r" * 40,
        rendered=f"question {number}",
        image_digests=("a" * 64,),
        sampling="{}",
        attempt=0,
        raw_response=text or f"answer {number}",
        finish_reason="stop",
        tokens_in=3,
        tokens_out=2,
    )


def ledger(root: Path, model: str = "owner/model") -> Ledger:
    return Ledger(root, model, "r" * 40, "mra_cir/modification", "d" * 64)


def test_probabilities_are_kept_and_older_files_are_read(tmp_path: Path) -> None:
    opened = ledger(tmp_path)
    told = replace(entry(1), probabilities=(0.25, 0.75))
    opened.append([told, entry(2)])
    old = pq.read_table(parts(opened)[0]).drop_columns("probabilities").filter(pc.field("request_id") == name(2))
    old = old.set_column(0, old.schema.field(0), pa.array([name(3)]))
    pq.write_table(old, opened.folder / "0.parquet")
    found = ledger(tmp_path).find([name(1), name(2), name(3)])
    assert found[name(1)] == told
    assert found[name(2)].probabilities is found[name(3)].probabilities is None


def parts(opened: Ledger) -> list[Path]:
    return sorted(opened.folder.glob("*.parquet"))


def test_what_was_appended_is_found_later(tmp_path: Path) -> None:
    first = ledger(tmp_path)
    assert first.append([entry(2), entry(1)]) == {name(2): entry(2), name(1): entry(1)}
    assert first.append([entry(3)]) == {name(3): entry(3)}
    again = ledger(tmp_path)
    assert len(again) == 3
    assert again.find([name(3), name(9), name(1), name(1)]) == {name(1): entry(1), name(3): entry(3)}
    assert len(parts(again)) == 2


def test_the_first_answer_stands(tmp_path: Path) -> None:
    one, two = ledger(tmp_path), ledger(tmp_path)
    one.append([entry(1, "first")])
    assert two.append([entry(1, "second"), entry(2)]) == {name(1): entry(1, "first"), name(2): entry(2)}
    assert two.append([entry(1, "third")]) == {name(1): entry(1, "first")}
    assert one.find([name(1), name(2)]) == {name(1): entry(1, "first"), name(2): entry(2)}
    assert sum(pq.read_metadata(path).num_rows for path in parts(one)) == 2


def test_a_request_twice_in_one_chunk_is_stored_once(tmp_path: Path) -> None:
    assert ledger(tmp_path).append([entry(1, "first"), entry(1, "second")]) == {name(1): entry(1, "first")}
    assert len(ledger(tmp_path)) == 1


def test_models_and_prompts_have_folders_of_their_own(tmp_path: Path) -> None:
    ledger(tmp_path).append([entry(1)])
    for other in (
        ledger(tmp_path, "owner-model"),  # the same folder name, another model
        Ledger(tmp_path, "owner/model", "s" * 40, "mra_cir/modification", "d" * 64),
        Ledger(tmp_path, "owner/model", "r" * 40, "mra_cir/modification", "e" * 64),
        Ledger(tmp_path, "owner/model", "r" * 40, "caption", "d" * 64),
    ):
        assert other.find([name(1)]) == {}
    assert [path.name for path in tmp_path.iterdir()] == ["owner-model-rrrrrrrr", "owner-model-ssssssss"]


def test_ids_that_begin_alike_are_told_apart(tmp_path: Path) -> None:
    one = replace(entry(1), request_id="a" * 16 + "0" * 48)
    two = replace(entry(2), request_id="a" * 16 + "1" * 48)
    opened = ledger(tmp_path)
    opened.append([one])
    assert opened.find([two.request_id]) == {}
    assert opened.append([two]) == {two.request_id: two}
    assert opened.find([one.request_id, two.request_id]) == {one.request_id: one, two.request_id: two}


@pytest.mark.parametrize("damage", ["cut", "zeros", "empty"])
def test_a_damaged_part_is_named_and_asked_again(tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str) -> None:
    opened = ledger(tmp_path)
    opened.append([entry(number) for number in range(50)])
    opened.append([entry(100)])
    path = parts(opened)[0]
    whole = path.read_bytes()
    middle = len(whole) // 3
    path.write_bytes(
        {"cut": whole[:-20], "zeros": whole[:middle] + bytes(40) + whole[middle + 40 :], "empty": b""}[damage]
    )
    with caplog.at_level(logging.WARNING):
        again = ledger(tmp_path)
        assert again.find([name(number) for number in range(50)]) == {}
    assert f"{path.stem}.torn is damaged" in caplog.text
    assert again.find([name(100)]) == {name(100): entry(100)}
    assert path.with_suffix(".torn").exists()
    assert again.append([entry(1, "anew")]) == {name(1): entry(1, "anew")}
    assert opened.find([name(1), name(2)]) == {name(1): entry(1, "anew")}  # one that had it open before


def test_a_damaged_part_that_another_process_sets_aside_meanwhile_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`find` holds no lock, so that two may come across a damaged part at once."""
    ledger(tmp_path).append([entry(1)])
    opened = ledger(tmp_path)
    (path,) = parts(opened)
    path.write_bytes(path.read_bytes()[:-20])
    real = pq.ParquetFile

    def beaten(source: Path, **options: bool) -> pq.ParquetFile:
        try:
            return real(source, **options)
        except pa.ArrowInvalid:
            path.rename(path.with_suffix(".torn"))
            raise

    monkeypatch.setattr(pq, "ParquetFile", beaten)
    assert opened.find([name(1)]) == {}
    assert opened.append([entry(1, "anew")]) == {name(1): entry(1, "anew")}
    assert path.with_suffix(".torn").exists()


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    opened = ledger(tmp_path)
    pq.write_table(pa.table({"request_id": ["0" * 64]}), opened.folder / "0.parquet")
    with pytest.raises(ValueError, match="another schema"):
        opened.find([name(1)])


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    opened = ledger(tmp_path)
    left = opened.folder / ".0.parquet.x.tmp"
    left.write_bytes(b"half")
    opened.append([entry(1)])
    assert not list(opened.folder.glob(TEMPORARY))


def test_a_full_disk_loses_nothing_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = ledger(tmp_path)
    opened.append([entry(1)])

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("data.artifact.sync", full)
        with pytest.raises(OSError, match="No space left"):
            opened.append([entry(2)])
    assert not list(opened.folder.glob(TEMPORARY))
    assert ledger(tmp_path).find([name(1), name(2)]) == {name(1): entry(1)}
    assert opened.append([entry(2)]) == {name(2): entry(2)}


def test_processes_at_once_store_every_request_once(tmp_path: Path) -> None:
    # Requests 0..59 and 30..89: half of each are also the other's.
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), label, first, "60"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for label, first in (("one", "0"), ("two", "30"))
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write(b"\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    opened = ledger(tmp_path)
    assert len(opened) == 90
    found = opened.find([name(number) for number in range(90)])
    assert len(found) == 90
    assert {found[name(number)].raw_response for number in range(30)} == {"one"}
    assert {found[name(number)].raw_response for number in range(60, 90)} == {"two"}
