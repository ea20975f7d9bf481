"""Where a checkpoint's name leads, and what identifies its weights."""

import functools
import re
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

from data.home import home
from data.keys import digest, file_digest
from data.offline import is_offline
from data.suggest import did_you_mean

SHIPPED = Path(__file__).parent / "checkpoints"
# What decides a model's answers: weights, configuration, vocabulary, chat template. Not its card, not its history.
CONTENT = (".safetensors", ".bin", ".json", ".jinja", ".txt", ".model", ".py")
# LAVIS's files; bump the number when the conversion writes something else.
WEIGHTS_OF_LAVIS, CONVERTER = (".pth", ".pt"), 1
HUB_SECONDS = 30  # for the hub's answer to one small question; its client would wait for ever
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


@dataclass(frozen=True)
class Located:
    """A checkpoint that was found.

    Attributes:
        path_or_id: an absolute folder, or a Hugging Face id without revision.
        revision: of a folder the digest of its content (64 hexadecimal digits), of an id the commit (40), of LAVIS's
            files the digest of theirs (64).
        local: whether it is a folder; only an id takes `revision` as an argument of `from_pretrained`.
    """

    path_or_id: str
    revision: str
    local: bool


def resolve(name: str) -> Located:
    """Find a checkpoint and the revision that its results are filed under.

    Args:
        name: a folder in models/checkpoints ("tiny_llava"), the path of a folder, LAVIS's files of a BLIP-2 (a folder
            that holds them, or "blip2_pretrained.pth+eva_vit_g.pth"), or a Hugging Face id ("openbmb/MiniCPM-V-2_6",
            with "@revision" for another than the main branch). They are tried in this order. LAVIS's files are
            converted once, into CIRQUE_HOME/checkpoints.

    Raises:
        FileNotFoundError: if a folder of that name exists but holds no weights, or a file of LAVIS's is not there.
        LookupError: if nothing has that name, or it is not on this machine and the hub refuses or may not be asked.
        ConnectionError: if it is not on this machine and the hub cannot be reached.
        ValueError: if LAVIS's files are not those of a BLIP-2.
    """
    files = _lavis_files(name)
    if files:
        return _converted(files)
    for folder in (SHIPPED / name, Path(name).expanduser()):
        if folder.is_dir():
            return Located(str(folder.resolve()), folder_revision(folder), local=True)
    check_name(name)
    repository, _, revision = name.partition("@")
    return Located(repository, _commit(repository, revision or "main"), local=False)


def check_name(name: str) -> None:
    """Refuse a name that `resolve` cannot follow, without asking a hub or reading a file.

    Raises:
        FileNotFoundError: if a file of LAVIS's is not there.
        LookupError: if it is no shipped checkpoint, no folder, and no id of the hub's form.
    """
    if _lavis_files(name) or HUB_ID.fullmatch(name) or (SHIPPED / name).is_dir() or Path(name).expanduser().is_dir():
        return
    shipped = [path.name for path in SHIPPED.iterdir() if path.is_dir()] if SHIPPED.is_dir() else []
    raise LookupError(
        f"no checkpoint {name!r}: neither in models/checkpoints, nor a folder, nor an id 'owner/name' of Hugging "
        f"Face;{did_you_mean(name, shipped)}"
    )


def _lavis_files(name: str) -> list[Path]:
    """The files of LAVIS's that a name stands for; empty if it stands for something else."""
    if name.endswith(WEIGHTS_OF_LAVIS):
        files = [Path(part).expanduser().resolve() for part in name.split("+")]
        gone = next((path for path in files if not path.is_file()), None)
        if gone is not None:
            raise FileNotFoundError(f"there is no file {gone}; name LAVIS's files as 'qformer.pth+tower.pth'")
        return files
    folder = Path(name).expanduser()
    if not folder.is_dir() or (folder / "config.json").exists():
        return []
    return sorted(path.resolve() for path in folder.iterdir() if path.suffix in WEIGHTS_OF_LAVIS)


def _converted(files: list[Path]) -> Located:
    """LAVIS's files as a folder of Hugging Face's form, made if it is not there yet."""
    if len(files) > 2:
        raise ValueError(
            f"expected LAVIS's Q-Former and its tower, found {', '.join(path.name for path in files)}; name the two as"
            " 'qformer.pth+tower.pth'"
        )
    states = [(path, path.stat()) for path in files]
    contents = sorted(_content(path, state.st_size, state.st_mtime_ns) for path, state in states)
    words = files[0].with_name("vocab.txt")
    revision = digest([CONVERTER, contents, file_digest(words) if words.is_file() else None])
    folder = home() / "checkpoints" / revision[:20]
    if not folder.is_dir():
        from models.encoders.lavis import write_checkpoint

        unfinished = folder.with_name(f".{uuid.uuid4().hex}")
        try:
            write_checkpoint(files, unfinished)
            unfinished.rename(folder)
        except OSError:
            if not folder.is_dir():  # another process was faster
                raise
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return Located(str(folder), revision, local=True)


def folder_revision(folder: Path) -> str:
    """Digest of the names and contents of a model folder's own files; see CONTENT.

    Weights are read once per process and change of a file's size or time, which takes about a second per gigabyte.

    Raises:
        FileNotFoundError: if the folder holds no weights.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix in CONTENT)
    if not any(path.suffix in (".safetensors", ".bin") for path in files):
        raise FileNotFoundError(f"{folder.resolve()} holds no weights (*.safetensors); is it a model's folder?")
    states = [path.stat() for path in files]
    return digest(
        [
            [path.name, _content(path.resolve(), state.st_size, state.st_mtime_ns)]
            for path, state in zip(files, states, strict=True)
        ]
    )


@functools.lru_cache(maxsize=4096)
def _content(path: Path, size: int, modified: int) -> str:
    return file_digest(path)


def _commit(repository: str, revision: str) -> str:
    """The commit behind a branch, tag or commit: of the hub, or of the local cache when offline or the hub is gone."""
    import huggingface_hub
    from huggingface_hub import errors

    if re.fullmatch(r"[0-9a-f]{40}", revision):
        return revision
    trouble: Exception | None = None
    if not is_offline():
        try:
            return str(huggingface_hub.model_info(repository, revision=revision, timeout=HUB_SECONDS).sha)
        except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
            raise LookupError(f"Hugging Face has no model {repository!r} at {revision!r} for you: {error}") from error
        except (OSError, errors.HTTPError) as error:  # type: ignore[attr-defined]  # its http client's, which varies
            trouble = error
    cached = huggingface_hub.try_to_load_from_cache(repository, "config.json", revision=revision)
    if isinstance(cached, str):
        return Path(cached).parent.name  # .../snapshots/<commit>/config.json
    raise _not_found(repository, revision, trouble, huggingface_hub.constants.ENDPOINT) from trouble


def _not_found(repository: str, revision: str, trouble: Exception | None, endpoint: str) -> Exception:
    """What to tell of a model that is not here: a ConnectionError if the hub may have it later."""
    missing = f"the local cache holds no copy of {repository!r} at {revision!r}"
    advice = f"download it first with 'hf download {repository}', or give the path of a folder"
    if trouble is None:
        return LookupError(f"HF_HUB_OFFLINE is set and {missing}; {advice}")
    said = (str(trouble) or type(trouble).__name__).splitlines()[0]
    status = getattr(getattr(trouble, "response", None), "status_code", 0)
    if 400 <= status < 500 and status not in (408, 429):
        return LookupError(
            f"Hugging Face at {endpoint} refused ({said}) and {missing}; log in as somebody who may have it with"
            " 'hf auth login', or give the path of a folder"
        )
    return ConnectionError(
        f"Hugging Face at {endpoint} cannot be reached ({said}) and {missing}; try again later, {advice}"
    )
