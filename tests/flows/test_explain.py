from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.__main__ import app
from flows.explain import explanation
from tasks.runs import RunError, load_run
from tests.flows.runs import run_toy

pytestmark = pytest.mark.usefixtures("store")


def keys(run: str) -> dict[str, str]:
    return {row.stage: str(row.key)[:12] for row in load_run(run).stages}


def test_changed_setting_is_shown_from_its_old_to_its_new_value() -> None:
    first, second = run_toy(factor=2), run_toy(factor=5)
    assert list(explanation("double")) == [
        f"double: ran in run {second}, because there is no artifact with this key",
        f"  its key changed since run {first}:",
        "    config.factor: 2 -> 5",
    ]


def test_changed_input_names_the_stage_it_comes_from_and_why() -> None:
    first, second = run_toy(upto=10), run_toy(upto=12)
    old, new = keys(first), keys(second)
    moved = {stage: f"another artifact of stage {stage} ({old[stage]} -> {new[stage]}), because there" for stage in old}
    assert list(explanation("score"))[2:] == [
        f"    input product: {moved['double']}",
        f"      input numbers: {moved['count']}",
        "        config.upto: 10 -> 12",
    ]


def test_same_key_is_said_with_the_reason_for_the_state() -> None:
    first, second = run_toy(), run_toy()
    key = keys(first)["count"]
    assert list(explanation("count")) == [
        f"count: cached in run {second}",
        f"  its key {key} is the same as in run {first}",
    ]
    third = run_toy(rerun=["count"])
    assert list(explanation("double")) == [
        f"double: ran in run {third}, because count was made anew by --rerun",
        f"  its key {keys(first)['double']} is the same as in run {second}",
    ]


def test_deleted_file_is_the_reason(store: Path) -> None:
    run_toy()
    next(store.glob("store/count/*/part-3")).unlink()
    run_toy()
    assert next(iter(explanation("count"))).endswith("because damaged: part-3 is missing")
    assert next(iter(explanation("double"))).startswith("double: cached")  # the same bytes came out


def test_first_run_and_stage_not_reached() -> None:
    with pytest.raises(RunError):
        run_toy(explode=True)
    assert list(explanation("count"))[1] == "  no earlier run of toy came to count: there is nothing to compare with"
    assert list(explanation("score"))[1] == "  it has no key in this run: the run did not come that far"


def test_mistyped_stage_gets_a_suggestion() -> None:
    run_toy()
    result = CliRunner().invoke(app, ["explain", "duoble"])
    assert result.exit_code == 1
    assert "no stage 'duoble' in run" in result.stderr
    assert "did you mean 'double'?" in result.stderr
    assert CliRunner().invoke(app, ["explain", "double"]).exit_code == 0
