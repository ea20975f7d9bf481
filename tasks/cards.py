"""What lies beside a trained checkpoint for its reader: a model card, and the settings it was trained with."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.checkpoints import HUB_ID
from tasks.train import TrainConfig

# YAML, as every JSON is; not ".json", which would be taken for a part of the model.
RECIPE_FILE = "training.yaml"


@dataclass(frozen=True)
class Origin:
    """What a training run started from.

    Attributes:
        checkpoint, weights: the base checkpoint's name and digest.
        inputs: keys of the artifacts, by their stage.
        training, validation: triplets of each.
        dtype: in which the network computed.
    """

    checkpoint: str
    weights: str
    inputs: Mapping[str, str]
    training: int
    validation: int
    dtype: str


def write_card(
    folder: Path, origin: Origin, config: TrainConfig, seed: int, best: int, rows: Sequence[Mapping[str, Any]]
) -> None:
    """Write README.md and training.yaml beside the weights.

    Args:
        folder: with a saved checkpoint.
        origin: what the run started from.
        config: all settings.
        seed: this checkpoint's.
        best: the step that was kept.
        rows: the history; see `tasks.train.HISTORY`.
    """
    recipe = {
        "base": {"checkpoint": origin.checkpoint, "revision": origin.weights},
        "config": {**config.model_dump(mode="json"), "seeds": [seed]},
        "dtype": origin.dtype,
        "inputs": dict(origin.inputs),
        "triplets": {"training": origin.training, "validation": origin.validation},
        "steps": {"kept": best, "taken": rows[-1]["step"]},
    }
    (folder / RECIPE_FILE).write_text(json.dumps(recipe, indent=2) + "\n", encoding="utf-8")
    kept = next(row for row in rows if row["step"] == best and row["val_recall@1"] is not None)
    (folder / "README.md").write_text(_card(origin, config, seed, rows[0], kept, rows[-1]["step"]), encoding="utf-8")


def _card(
    origin: Origin, config: TrainConfig, seed: int, base: Mapping[str, Any], kept: Mapping[str, Any], steps: int
) -> str:
    model = config.described()
    header = ["---", "library_name: transformers", f"tags: [composed-image-retrieval, {model.tag}]"]
    if HUB_ID.fullmatch(origin.checkpoint):
        header.append(f"base_model: {origin.checkpoint.partition('@')[0]}")
    recalls = " | ".join(f"{row[f'val_recall@{k}']:.1f}" for row in (base, kept) for k in (1, 10))
    return "\n".join(
        [
            *header,
            "---",
            f"# A composed image retriever, from {Path(origin.checkpoint).name}, seed {seed}",
            "",
            *model.what,
            "The base's licence applies, and that of the images.",
            "",
            f"- Losses: {', '.join(config.losses)}, over texts read as {config.text_reading}.",
            f"- {origin.training} triplets, {config.epochs} epochs in batches of {config.batch_size}, AdamW, learning"
            f" rate {config.learning_rate:g} ({config.schedule}); step {kept['step']} of {steps} was kept.",
            f"- Chosen on {origin.validation} triplets of held-out references, percent:",
            "",
            "| base recall@1 | base recall@10 | recall@1 | recall@10 |",
            "|---|---|---|---|",
            f"| {recalls} |",
            "",
            f"- All settings, the base and the keys of the inputs are in `{RECIPE_FILE}`.",
            "- `cirque.json` holds the temperature and what is done to images and texts before the network.",
            *model.read,
            "",
        ]
    )
