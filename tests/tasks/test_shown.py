"""How often progress is sent to Prefect; what it shows there is tested with the flows."""

import pytest

from tasks.shown import ShownProgress


@pytest.mark.parametrize(
    ("seconds", "sent"),
    [
        (0.0, [5.0, 10.0, 15.0, 20.0, 25.0, 30.0]),
        (1.0, [5.0, 26.0]),  # 20 times as long without
    ],
)
def test_a_slow_server_is_told_less_often(monkeypatch: pytest.MonkeyPatch, seconds: float, sent: list[float]) -> None:
    now, told = 0.0, []

    def send(self: ShownProgress, percent: float, text: str) -> None:
        nonlocal now
        told.append(percent)
        now += seconds

    monkeypatch.setattr("tasks.shown.time.monotonic", lambda: now)
    monkeypatch.setattr(ShownProgress, "_send", send)
    with ShownProgress("toy", "count", None).phase(100, "rows", 0) as advance:
        for second in range(1, 31):
            now = max(now, float(second))
            advance(1)
    assert told == sent
