"""Copies of checkpoints with other choices of what is done to images and texts, in Hugging Face's format."""

from pathlib import Path

from models.encoders.fit import Fit


def convert(
    source: str,
    folder: Path,
    *,
    fit: Fit | None = None,
    max_text_tokens: int | None = None,
    dtype: str = "float32",
) -> dict[str, object]:
    """Write a checkpoint anew: from LAVIS's files, or with another preprocessing, which is a part of a checkpoint.

    Args:
        source: what `encode.checkpoint` takes: a shipped name, a folder, LAVIS's files or a Hugging Face id.
        folder: of the copy; it must be empty or missing.
        fit: how images become square; None: as the source does.
        max_text_tokens: where texts are cut; None: where the source cuts them.
        dtype: of the written weights: "float32", "float16" or "bfloat16".

    Returns:
        The copy's preprocessing.

    Raises:
        FileExistsError: if there is something in the folder.
        LookupError, ValueError: if the source is not a BLIP-2 retriever.
    """
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; name a new folder")
    from models.checkpoints import resolve
    from models.encoders.blip2 import Blip2Encoder  # torch takes seconds to import

    located = resolve(source)
    revision = None if located.local else located.revision
    encoder = Blip2Encoder.load(
        located.path_or_id, revision=revision, device="cpu", dtype="float32", max_text_tokens=max_text_tokens
    )
    encoder.fit = fit or encoder.fit
    encoder.save(folder, dtype)
    preprocessing = encoder.preprocessing()
    (folder / "README.md").write_text(_card(source, located.revision, preprocessing, dtype), encoding="utf-8")
    return preprocessing


def _card(source: str, revision: str, preprocessing: dict[str, object], dtype: str) -> str:
    return "\n".join(
        [
            "---",
            "library_name: transformers",
            "tags: [composed-image-retrieval, blip-2]",
            "---",
            f"# {Path(source.split('+')[0]).stem}, in Hugging Face's format",
            "",
            f"- The weights of `{source}` (revision {revision}), unchanged, in {dtype}; the source's licence applies.",
            f"- Images: {preprocessing['fit']}, {preprocessing['height']} x {preprocessing['width']} pixels. Texts: at"
            f" most {preprocessing['max_text_tokens']} tokens, lower case. Both are in `cirque.json`.",
            "",
        ]
    )
