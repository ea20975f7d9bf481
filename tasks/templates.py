"""What an MLLM is told when it embeds: the files of prompts/instruct_cir/templates, in sets and for benchmarks."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import prompts

if TYPE_CHECKING:
    from models.encoders.mllm_text import Templates

PLACE = "instruct_cir/templates"
KINDS = ("image", "caption", "query")


def template_names() -> list[str]:
    """The names of a set, the same in each of the folders image, caption and query; the first is the usual one.

    Raises:
        LookupError: if the folders have different files.
    """
    names = {kind: sorted(path.stem for path in (prompts.FOLDER / PLACE / kind).glob("*.md")) for kind in KINDS}
    if len({tuple(found) for found in names.values()}) != 1 or not names["image"]:
        raise LookupError(f"{PLACE}: image, caption and query need files of the same names, found {names}")
    return names["image"]


def template_digests() -> dict[str, str]:
    """Digests of all templates that training may draw, by name."""
    names = [f"{PLACE}/{kind}/{name}" for kind in KINDS for name in template_names()]
    return {name: prompts.load(name).digest for name in names}


def template_sets() -> "tuple[Templates, ...]":
    """What training draws from; the first is also what a checkpoint is read with."""
    return tuple(_load({kind: f"{PLACE}/{kind}/{name}" for kind in KINDS}) for name in template_names())


def benchmark_templates(benchmark: str) -> "Templates | None":
    """A benchmark's own wording, in the folder of its name; None if it has none, as the tiny world's."""
    if not (prompts.FOLDER / PLACE / benchmark).is_dir():
        return None
    return _load({kind: f"{PLACE}/{benchmark}/{kind}" for kind in KINDS})


def wording_facts(benchmarks: Sequence[str]) -> dict[str, dict[str, str]]:
    """Digests of the benchmarks' own wordings, for keys; nothing where none has one."""
    mine = [name for name in benchmarks if (prompts.FOLDER / PLACE / name).is_dir()]
    names = [f"{PLACE}/{benchmark}/{kind}" for benchmark in mine for kind in KINDS]
    return {"templates": {name: prompts.load(name).digest for name in names}} if names else {}


def worded_for(encoder: Any, benchmark: str) -> dict[str, str]:
    """Let an MLLM read a benchmark with its own wording, else with the checkpoint's; other encoders stay as they are.

    Returns:
        What a table should say about it: the folder of the wording, if the benchmark has one.
    """
    if not hasattr(encoder, "use"):
        return {}
    templates = benchmark_templates(benchmark)
    encoder.use(templates)
    return {} if templates is None else {"templates": f"{PLACE}/{benchmark}"}


def _load(names: dict[str, str]) -> "Templates":
    from models.encoders.mllm_text import Templates  # torch takes seconds to import

    return Templates(**{kind: prompts.load(name).text for kind, name in names.items()})
