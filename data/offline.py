"""Whether a hub of models may be asked, in this process and in those that it starts."""

import os

# Read by huggingface_hub, transformers and datasets when they are imported.
VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")


def is_offline() -> bool:
    """Whether no hub may be asked; the two variables count as they do for huggingface_hub."""
    given = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return given.upper() in ("1", "ON", "YES", "TRUE")


def go_offline() -> None:
    """Let libraries that are not imported yet, and processes not started yet, ask no hub."""
    os.environ |= dict.fromkeys(VARIABLES, "1")
