"""The page of answers: hits are marked in words, and the page loads nothing."""

import re
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

from data.benchmarks import Query
from data.protocols import Answer
from tasks.measure import Encoded, Evaluation, Measured, Prepared
from tasks.report_answers import row, write_page
from tasks.report_cards import Thumbnail
from tasks.target_texts import TargetTexts
from tests.tasks.compass import World

RANKED = ("i4", "i3", "i1", "i5", "i0")


def answered(query: Query, ranked: tuple[str, ...] = RANKED) -> Answer:
    return Answer(query, ranked, tuple(1 - place / 10 for place in range(len(ranked))), {}, tied=False)


def thumbs() -> Mapping[str, Thumbnail]:
    return {image: Thumbnail(image) for image in RANKED}


def test_hits_by_rank() -> None:
    one = row("composed", answered(Query("q", "i0", "red", ("i1",))), thumbs())
    assert one.summary == "target at rank 3"
    assert [found.hit for found in one.found] == [False, False, True, False, False]
    several = row("composed", answered(Query("q", "i0", "red", ("i1", "i4", "i2"))), thumbs())
    assert several.summary == "2 of 3 targets found, at rank 1, 3"
    assert row("composed", answered(Query("q", "i0", "red", ("i2",))), thumbs()).summary == (
        "no target among the first 5"
    )
    hidden = row("composed", answered(Query("q", "i0", "red", ())), thumbs())
    assert (hidden.summary, hidden.found[0].hit) == ("the targets of this split are not public", None)


def test_a_page_of_two_queries(tmp_path: Path) -> None:
    world = World()
    found, missed = Query("q", "i0", "make <b>it</b> red", ("i1",)), Query("r", "i5", "turn", ("i2",))
    benchmark = world.benchmark(found, missed)
    prepared = Prepared(SimpleNamespace(name="one"), SimpleNamespace(benchmark=benchmark))  # type: ignore[arg-type]
    measured = [
        Measured(prepared, "best", kind, kind, (answered(found), answered(missed))) for kind in ("composed", "joint")
    ]
    texts = TargetTexts("writer@1", {"one": {"q": "a red thing"}}, {"one": {"r": ("empty", "")}}, 2, 0)
    encoded = [Encoded("best", "one", 6, "ran", "0" * 64)]
    path = write_page(tmp_path / "answers.html", Evaluation(measured, encoded, {}, texts), 5)
    page = path.read_text()
    assert "2 of 2 queries" in page
    assert "make &lt;b&gt;it&lt;/b&gt; red" in page  # text stays text
    assert "a red thing" in page
    assert page.count("<b>3, hit</b>") == 2  # q, by both methods
    assert page.count('<li class="hit">') == 2
    assert page.count("target at rank 3") == 2
    assert page.count("no target among the first 5") == 2
    assert page.count("<b>Missed target</b>") == 1
    assert page.count("<b>Reference</b>") == 2
    # Each picture is in the page; nothing is fetched.
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)
    assert "<script" not in page
    assert (
        write_page(tmp_path / "one.html", Evaluation(measured, encoded, {}), 1).read_text().count("<b>Reference") == 1
    )
