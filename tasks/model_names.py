"""Names of models in a recipe's settings, looked at before any work."""

from collections.abc import Iterator

from pydantic import BaseModel

from models.checkpoints import check_name


def unknown_models(config: BaseModel, path: str = "") -> Iterator[str]:
    """What is wrong with names of checkpoints in a config, one message each. No hub is asked and no weights are read.

    What is switched off does not matter, and of another engine than vLLM the servers know the names.

    Args:
        config: of a recipe or of a part of it.
        path: of that part, with a dot behind it.
    """
    if not getattr(config, "on", True):
        return
    for name in type(config).model_fields:
        value = getattr(config, name)
        named = name == "checkpoint" or (name == "model" and getattr(config, "backend", None) == "vllm")
        if named and value:
            try:
                check_name(value)
            except (LookupError, OSError) as error:
                yield f"{path}{name}: {error.args[0]}"
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, BaseModel):
                yield from unknown_models(part, f"{path}{name}.")
