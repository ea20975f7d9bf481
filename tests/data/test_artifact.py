import json
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data import schemas
from data.artifact import Artifact, Counts, read_table, seal, write_json, write_table
from data.keys import digest

PAIR = {"pair_id": "p", "reference_id": "r", "target_id": "t", "rank": 51, "score": 0.5, "view": "all"}


def pairs(*rows: dict[str, object]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=schemas.PAIRS)


def test_counts_must_add_up() -> None:
    with pytest.raises(ValueError, match=r"read 100, but kept 90 \+ dropped 9 = 99"):
        Counts(read=100, kept=90, dropped={"too_small": 4, "truncated": 5}, written=90)


def test_written_rows_enter_no_sum() -> None:
    assert Counts(read=2, kept=1, dropped={"short": 1}, written=7).written == 7


@given(st.integers(0, 99), st.dictionaries(st.text(), st.integers(0, 99), max_size=3), st.integers(-3, 3))
def test_counts_accept_exactly_the_sums(kept: int, dropped: dict[str, int], error: int) -> None:
    read = kept + sum(dropped.values()) + error
    if error == 0:
        assert Counts(read=read, kept=kept, dropped=dropped, written=0).read == read
    else:
        with pytest.raises(ValueError, match="add up" if read >= 0 else "greater than or equal to 0"):
            Counts(read=read, kept=kept, dropped=dropped, written=0)


@pytest.mark.parametrize(
    "name", ["IMAGES", "RANKING", "PAIRS", "TRIPLETS", "GENERATIONS", "REJECTED", "PREDICTIONS", "SCORES"]
)
def test_every_schema_survives_a_round_trip(tmp_path: Path, name: str) -> None:
    schema = getattr(schemas, name)
    write_table(tmp_path / "table.parquet", schema.empty_table(), schema)
    assert read_table(tmp_path / "table.parquet", schema).schema.equals(schema, check_metadata=True)


def test_full_triplet_survives_a_round_trip(tmp_path: Path) -> None:
    provenance = {"model": "m", "revision": "r", "prompt_digest": "p", "caption_prompt_digest": "c"}
    row = dict.fromkeys(schemas.TRIPLETS.names) | {
        "triplet_id": "t",
        "reference_id": "a",
        "modification": "make it red",
        "negative_ids": ["x", "y"],
        "recipe": "mra_cir",
        "provenance": {**provenance, "request_ids": ["1", "2"]},
    }
    table = pa.Table.from_pylist([row], schema=schemas.TRIPLETS)
    write_table(tmp_path / "triplets.parquet", table, schemas.TRIPLETS)
    assert read_table(tmp_path / "triplets.parquet", schemas.TRIPLETS).to_pylist() == [row]


def test_other_columns_are_shown(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="another schema") as info:
        write_table(tmp_path / "pairs.parquet", pa.table({"pair_id": ["p"], "rnk": [1]}), schemas.PAIRS)
    lines = str(info.value).splitlines()
    assert "  rank: missing, expected int32 not null" in lines
    assert "  rnk: unexpected, found int64" in lines
    assert "  pair_id: found string, expected string not null" in lines


def test_order_of_columns_matters(tmp_path: Path) -> None:
    table = pairs(PAIR).select(list(reversed(schemas.PAIRS.names)))
    with pytest.raises(ValueError, match="order: found view, score"):
        write_table(tmp_path / "pairs.parquet", table, schemas.PAIRS)


def test_null_in_a_column_without_nulls_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="column 'rank' has 1 nulls of 2 values"):
        write_table(tmp_path / "pairs.parquet", pairs(PAIR, {**PAIR, "rank": None}), schemas.PAIRS)


def test_null_deep_inside_is_refused(tmp_path: Path) -> None:
    row = {"triplet_id": "t", "reference_id": "a", "modification": "m", "recipe": "r", "negative_ids": ["x", None]}
    provenance = {"model": "m", "revision": "r", "prompt_digest": "p", "caption_prompt_digest": "c", "request_ids": []}
    table = pa.Table.from_pylist([{**row, "provenance": provenance}], schema=schemas.TRIPLETS)
    with pytest.raises(ValueError, match=r"column 'negative_ids'\[\] has 1 nulls"):
        write_table(tmp_path / "triplets.parquet", table, schemas.TRIPLETS)
    table = pa.Table.from_pylist(
        [{**row, "negative_ids": None, "provenance": {**provenance, "model": None}}], schema=schemas.TRIPLETS
    )
    with pytest.raises(ValueError, match=r"'provenance'\.model has 1 nulls"):
        write_table(tmp_path / "triplets.parquet", table, schemas.TRIPLETS)


def test_reading_another_schema_is_refused(tmp_path: Path) -> None:
    write_table(tmp_path / "pairs.parquet", pairs(PAIR), schemas.PAIRS)
    with pytest.raises(ValueError, match="candidate_id: missing"):
        read_table(tmp_path / "pairs.parquet", schemas.RANKING)


def test_folder_names_do_not_become_columns(tmp_path: Path) -> None:
    write_table(tmp_path / "seed=0" / "pairs.parquet", pairs(PAIR), schemas.PAIRS)
    assert read_table(tmp_path / "seed=0" / "pairs.parquet", schemas.PAIRS).num_columns == 6


def test_cut_parquet_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "pairs.parquet"
    write_table(path, pairs(PAIR), schemas.PAIRS)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"pairs\.parquet is not a Parquet file"):
        read_table(path, schemas.PAIRS)


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}


def test_seal_writes_what_decided_the_artifact(tmp_path: Path) -> None:
    upstream, folder = tmp_path / "upstream", tmp_path / "folder"
    for place in (upstream, folder):
        (place / "deep").mkdir(parents=True)
        (place / "deep" / "a.txt").write_text("abc")
    source = seal(upstream, Counts(read=1, kept=1, written=1), stage="rank")
    config, facts = {"low": 51}, {"listing": "f00"}
    counts = Counts(read=3, kept=2, dropped={"short": 1}, written=2, detail={"mean": 0.5})
    artifact = seal(folder, counts, stage="sample", version=2, config=config, facts=facts, inputs={"ranking": source})
    inputs = {"ranking": {"stage": "rank", "key": source.key}}
    assert artifact.key == digest({"stage": "sample", "version": 2, "config": config, "facts": facts, "inputs": inputs})
    manifest = Artifact(folder, "sample", artifact.key).manifest
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
    assert manifest["files"] == {"deep/a.txt": {"bytes": 3, "sha256": abc}}
    assert manifest["input_contents"] == {"ranking": source.content}
    assert source.content == artifact.content  # the same files
    assert artifact.counts == counts
    assert str(tmp_path) not in json.dumps(manifest)


def test_missing_file_is_named_with_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "pairs.parquet").touch()
    artifact = seal(tmp_path, Counts(read=0, kept=0, written=0), stage="sample")
    with pytest.raises(FileNotFoundError, match=r"has no 'pair\.parquet'; it has manifest\.json, pairs\.parquet"):
        artifact.file("pair.parquet")


def test_unsealed_folder_has_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="not a sealed artifact"):
        _ = Artifact(tmp_path, "sample", "k").manifest
