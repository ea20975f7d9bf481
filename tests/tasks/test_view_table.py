"""Looking into a table of triplets: filters, order, search, pages, samples."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.schemas import TRIPLETS, VERDICTS
from tasks.curation import Action
from tasks.view_columns import Condition
from tasks.view_source import Source
from tasks.view_table import Question, TripletTable
from tests.tasks.view_world import SCRIPT, small_world


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return Source(small_world(tmp_path_factory.mktemp("photos")))


def ids(table: TripletTable, question: Question) -> list[str]:
    return [row["triplet_id"] for row in table.page(table.select(question))]


def numbered(*places: int) -> list[str]:
    return [f"t{place:04d}" for place in places]


def test_every_column_filters_and_sorts(source: Source) -> None:
    table = source.kept
    assert {"words", "provenance.model", "negative_ids", "filter: too_long"} < set(table.columns)
    for name, column in table.columns.items():
        assert len(table.select(Question(sort=name, descending=True))) == 30
        assert len(table.select(Question(conditions=(Condition(name, "is empty"),)))) in (0, 30)
        value = "x" if column.kind == "text" else "1e9"
        assert len(table.select(Question(conditions=(Condition(name, "is", value),)))) == 0


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ([("rank", "at least", "59"), ("rank", "at most", "59")], [8, 18, 28]),
        ([("score", "is", "0.97")], [3]),
        ([("modification", "contains", "MAKE IT green"), ("triplet_id", "contains", "t000")], [1, 7]),
        ([("filter: too_long", "at least", "28")], [28, 29]),
        ([("style", "is not", "short"), ("filter: too_long", "at most", "3")], [0, 2]),
        ([("words", "is", "4")], [0]),
    ],
)
def test_conditions_select_what_they_say(
    source: Source, conditions: list[tuple[str, str, str]], expected: list[int]
) -> None:
    made = tuple(Condition(column, operator, value) for column, operator, value in conditions)  # type: ignore[arg-type]
    assert ids(source.kept, Question(conditions=made)) == numbered(*expected)


def test_search_wants_every_word_somewhere_and_quoted_words_together(source: Source) -> None:
    table = source.kept
    assert ids(table, Question(search="YELLOW 9")) == numbered(9)  # 3 % 6 is yellow, its text has "turn it 9 times"
    assert ids(table, Question(search='"it red and"')) == numbered(6, 12, 18, 24)
    assert ids(table, Question(search="</script>")) == numbered(0)
    assert ids(table, Question(search="100%")) == []
    assert ids(table, Question(search="'; DROP TABLE t; --")) == []


def test_order_is_that_of_the_column_and_then_of_the_file(source: Source) -> None:
    assert ids(source.kept, Question(sort="rank", descending=True))[:4] == numbered(9, 19, 29, 8)
    assert ids(source.kept, Question(sort="filter: too_long", descending=True))[:2] == numbered(29, 28)


def test_a_page_has_whole_rows_in_the_order_asked_for(source: Source) -> None:
    numbers = source.kept.select(Question(sort="score"))
    rows = source.kept.page(numbers[:2])
    assert [row["triplet_id"] for row in rows] == numbered(29, 28)
    assert set(rows[0]) == {*TRIPLETS.names, "row"}
    assert rows[0]["provenance"]["request_ids"] == ["q0029"]
    found = source.kept.find("t0000")
    assert found is not None
    assert found["modification"] == SCRIPT
    assert source.kept.find("no such") is None


def test_wrong_conditions_say_what_is_wrong(source: Source) -> None:
    with pytest.raises(LookupError, match="no column 'rnak'; did you mean 'rank'"):
        source.kept.select(Question(sort="rnak"))
    with pytest.raises(ValueError, match="rank is a number; 'many' is none"):
        source.kept.select(Question(conditions=(Condition("rank", "at least", "many"),)))
    with pytest.raises(ValueError, match="style holds texts"):
        source.kept.select(Question(conditions=(Condition("style", "at most", "b"),)))


def test_a_path_of_any_characters_is_one_file(tmp_path: Path, source: Source) -> None:
    path = tmp_path / "a[b]*'c?" / "triplets.parquet"
    path.parent.mkdir()
    pq.write_table(pq.read_table(source.kept.path), path)
    pq.write_table(pq.read_table(source.kept.path), tmp_path / "other.parquet")
    assert TripletTable(path).rows == 30


def test_another_schema_is_refused(tmp_path: Path, source: Source) -> None:
    pq.write_table(pq.read_table(source.kept.path).drop(["rank"]), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match="rank: missing, expected int32"):
        TripletTable(tmp_path / "t.parquet")


def test_dropped_triplets_have_their_reasons(source: Source) -> None:
    dropped = source.dropped
    assert dropped is not None
    assert dropped.reasons() == [("too_long", 3)]
    assert ids(dropped, Question(reason="too_long")) == numbered(30, 31, 32)
    assert ids(dropped, Question(reason="other")) == []
    assert dropped.why(["t0031"])["t0031"]["detail"] == "too many words"
    assert [one.reason for one in source.reasons] == ["not_json", "too_long"]
    assert source.rejected(source.reasons[0], 0, 5)[0]["detail"].startswith("I think")


def test_answers_neighbours_and_verdicts_are_found(source: Source) -> None:
    assert source.answers(["q0003", "gone", "q0001"])[1]["request_id"] == "q0001"
    assert [row["rank"] for row in source.neighbours("0001.png", 2, 55)] == [1, 2, 53, 54, 55, 56, 57]
    verdicts = source.kept.verdicts(["t0031", "t0003", "gone"])
    assert {name: [(row["filter"], row["value"], row["kept"]) for row in rows] for name, rows in verdicts.items()} == {
        "t0003": [("too_long", 3, True)],
        "t0031": [("too_long", 31, False)],
    }
    assert source.prompts["p"] == "mra_cir/modification"


def test_verdicts_of_a_page_are_in_the_order_of_the_filters(tmp_path: Path, source: Source) -> None:
    filters = ("too_long", "too_generic", "same_text", "image_talk")
    rows = [
        {"triplet_id": f"t{place:04d}", "filter": name, "value": None if name == "same_text" else place / 2}
        | {"threshold": 9.0, "kept": True, "reason": "no_caption" if name == "same_text" else None}
        for name in filters
        for place in range(30)
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=VERDICTS), tmp_path / "verdicts.parquet", row_group_size=7)
    table = TripletTable(source.kept.path, tmp_path / "verdicts.parquet")
    asked = ids(table, Question(sort="score"))
    found = table.verdicts(asked)
    assert sorted(found) == sorted(asked)
    assert all([row["filter"] for row in found[one]] == list(filters) for one in asked)
    assert [row["value"] for row in found["t0005"]] == [2.5, 2.5, None, 2.5]


def test_a_sample_stays_the_same_while_people_judge(tmp_path: Path) -> None:
    source = Source(small_world(tmp_path / "other", triplets=40))
    asked = Question(sample=10, seed=3)
    drawn = ids(source.kept, asked)
    assert len(set(drawn)) == 10
    assert drawn != sorted(drawn)
    assert ids(source.kept, Question(sample=10, seed=4)) != drawn
    actions: list[Action] = ["approve", "reject", "approve"]
    for one, action in zip(drawn, actions, strict=False):
        row = source.kept.find(one)
        assert row is not None
        source.curation.say(row, "ann", action)
    assert ids(source.kept, asked) == drawn
    assert ids(source.kept, Question(sample=10, seed=3, verdict="unjudged")) == drawn[3:]
    assert ids(source.kept, Question(verdict="approved")) == sorted([drawn[0], drawn[2]])
    assert len(source.kept.select(Question(verdict="unjudged"))) == 37


def test_pictures_are_small_and_a_missing_one_says_so(tmp_path: Path) -> None:
    source = Source(small_world(tmp_path / "pictures", triplets=41))
    assert source.pictures.get("0001.png", 96).data.startswith(b"RIFF")
    (tmp_path / "pictures" / "0002.png").unlink()
    (tmp_path / "pictures" / "0003.png").write_bytes(b"no picture")
    assert "cannot be" in source.pictures.get("0002.png", 96).problem
    assert "not_an_image" in source.pictures.get("0003.png", 96).problem
    assert source.pictures.get("../../etc/passwd", 96).problem == "not among the images"
    with pytest.raises(ValueError, match="96, 192, 512"):
        source.pictures.get("0001.png", 40_000)
