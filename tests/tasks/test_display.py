import io

import pytest
from rich.console import Console
from rich.progress import Progress, ProgressColumn

from data.progress import progress, reporting_to
from tasks.display import Bars, Lines, bar_columns, choose_display, summary
from tasks.runs import StageRecord

ROW = StageRecord(
    stage="ingest", state="ran", read=1000, kept=990, dropped={"empty": 2, "truncated": 8}, written=990, seconds=12.34
)


def shown_work(bars: Progress) -> str:
    column = bars.columns[-1]
    assert isinstance(column, ProgressColumn)
    return str(column(bars.tasks[0]))


def test_summary_accounts_for_every_row() -> None:
    assert (
        summary(ROW) == "ingest: ran, 1,000 rows in, 990 kept, 10 dropped (truncated 8, empty 2), 990 written, 12.3 s"
    )
    assert summary(StageRecord(stage="rank", state="failed", seconds=0.1)) == "rank: failed, 0.1 s"


def test_one_line_per_stage_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    with choose_display(stream) as display:
        assert isinstance(display, Lines)
        display.begin("ingest")
        with reporting_to(display.reporter("ingest")), progress(1000) as advance:
            advance(1000)
        display.end(ROW)
    assert stream.getvalue() == summary(ROW) + "\n"


def test_a_line_a_minute_while_a_stage_works_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    now = iter(range(0, 1000, 25))  # every look at the clock is 25 seconds later
    display = Lines(stream, clock=lambda: next(now))
    with reporting_to(display.reporter("encode")), progress(600, "images", done=100) as advance:
        for _ in range(6):
            advance(50)
    assert stream.getvalue().splitlines() == [
        "encode: 250/600 images, 2/s, 2:55 left",
        "encode: 400/600 images, 2/s, 1:40 left",
    ]


def test_bar_shows_units_rate_and_time_left() -> None:
    clock = iter(range(1000))  # every look at the clock is a second later
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None)
    with bar_columns(console) as bars:
        bars.get_time = lambda: float(next(clock))
        display = Bars(bars)
        display.begin("encode")
        with reporting_to(display.reporter("encode")), progress(400, "images", done=200) as advance:
            advance(10)
            advance(10)
            advance(10)
            (task,) = bars.tasks
            assert (task.completed, task.total) == (230, 400)
            shown = shown_work(bars)
            assert shown.startswith("230/400 images, ")
            assert task.speed == pytest.approx(20 / (task._progress[-1].timestamp - task._progress[0].timestamp))
            assert shown.endswith(" left")
        display.end(ROW.model_copy(update={"stage": "encode"}))
        assert shown_work(bars) == "ran, 1,000 rows, 12.3 s"


def test_second_phase_starts_from_its_own_zero_and_late_threads_do_no_harm() -> None:
    with bar_columns(Console(file=io.StringIO())) as bars:
        display = Bars(bars)
        display.begin("generate")
        with reporting_to(display.reporter("generate")):
            with progress(10, "captions") as first:
                first(10)
            with progress(None, "modifications") as second:
                first(1)
                second(3)
                (task,) = bars.tasks
                assert (task.completed, task.total, task.fields["unit"]) == (3, None, "modifications")
