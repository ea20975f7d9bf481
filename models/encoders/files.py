"""A checkpoint's files: a network in Hugging Face format, and beside it what only Cirque knows."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers.utils import logging as transformers_logging

from models.encoders.placement import DTYPES

SIDE_FILE = "cirque.json"
_ONE = threading.Lock()


def write_checkpoint(
    folder: Path,
    model: Any,
    state: Mapping[str, Tensor],
    readers: tuple[Any, ...],
    facts: Mapping[str, Any],
    dtype: str | None,
) -> None:
    """Write a network and what reads its inputs in Hugging Face format, and `cirque.json`.

    Args:
        folder: made if missing; files of the same names are replaced.
        model: of Hugging Face's classes.
        state: its weights as they are to be written.
        readers: tokenizer and image processor.
        facts: what goes into `cirque.json`.
        dtype: of the written weights; None keeps each as it is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if dtype is not None:
        state = {k: v.to(DTYPES[dtype]) if v.is_floating_point() else v for k, v in state.items()}
    with loading():
        model.save_pretrained(folder, state_dict=state)
    if hasattr(model, "published_config"):
        (folder / "config.json").write_text(json.dumps(model.published_config, indent=2) + "\n", encoding="utf-8")
    for reader in readers:
        reader.save_pretrained(folder)
    (folder / SIDE_FILE).write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def side_facts(source: str) -> dict[str, Any]:
    """What is in the `cirque.json` of a folder; nothing where there is none."""
    side = Path(source) / SIDE_FILE
    found: dict[str, Any] = json.loads(side.read_text(encoding="utf-8")) if side.is_file() else {}
    return found


@contextmanager
def loading() -> Iterator[None]:
    """Let transformers load or save a model: one at a time, and without its progress bars, one line per file.

    While it loads it puts functions in the place of torch's and of its own, and gives back what it found. Of two
    threads, the later finds the earlier one's: from then on no model of the process has tied weights.
    """
    with _ONE:
        shown = transformers_logging.is_progress_bar_enabled()
        transformers_logging.disable_progress_bar()
        try:
            yield
        finally:
            if shown:
                transformers_logging.enable_progress_bar()
