"""Names lead to folders or ids, and revisions follow the content."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import huggingface_hub
import pytest

from data.offline import VARIABLES
from models import checkpoints
from models.checkpoints import Located, folder_revision, resolve

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "some_model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "config.json").write_text("{}")
    return folder


def test_a_shipped_name_comes_before_a_folder(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work" / "some_model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(checkpoints, "SHIPPED", tmp_path)
    assert resolve("some_model") == Located(str(folder), folder_revision(folder), local=True)


def test_a_folder_is_found_by_its_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert resolve("some_model") == resolve(str(folder)) == resolve("../" + folder.parent.name + "/some_model")


def test_the_revision_follows_content_and_names_only(folder: Path, tmp_path: Path) -> None:
    before = folder_revision(folder)
    (folder / "README.md").write_text("a card")
    os.utime(folder / "model.safetensors", (1, 1))
    assert folder_revision(folder) == before
    for name, text in (("model.safetensors", "other"), ("chat_template.jinja", "x"), ("vocab.txt", "y")):
        (folder / name).write_text(text)
        assert folder_revision(folder) != before
        before = folder_revision(folder)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no weights"):
        resolve(str(tmp_path))


def test_a_mistyped_name_gets_a_suggestion(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "SHIPPED", tmp_path)
    with pytest.raises(LookupError, match="did you mean 'some_model'"):
        resolve("some_modell")


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A local cache of the hub's that holds `owner/model`."""
    repository = tmp_path / "models--owner--model"
    (repository / "snapshots" / COMMIT).mkdir(parents=True)
    (repository / "snapshots" / COMMIT / "config.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    real = huggingface_hub.try_to_load_from_cache
    monkeypatch.setattr(
        huggingface_hub, "try_to_load_from_cache", lambda *args, **more: real(*args, cache_dir=tmp_path, **more)
    )


@pytest.mark.usefixtures("cached")
def test_offline_the_commit_is_that_of_the_local_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert resolve("owner/model") == Located("owner/model", COMMIT, local=False)
    assert resolve(f"owner/model@{COMMIT[::-1]}") == Located("owner/model", COMMIT[::-1], local=False)
    with pytest.raises(LookupError, match=r"HF_HUB_OFFLINE is set and .* no copy of 'owner/other' at 'main'"):
        resolve("owner/other")


@contextmanager
def hub(monkeypatch: pytest.MonkeyPatch, status: int | None) -> Iterator[str]:
    """The address of a hub that answers with one status only; of a port that nobody listens on for None."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert status is not None
            self.send_response(status)
            self.end_headers()

        def log_message(self, *words: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        address = f"http://127.0.0.1:{server.server_port}"
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        monkeypatch.setattr(huggingface_hub, "model_info", huggingface_hub.HfApi(address).model_info)
        if status is None:
            server.server_close()
            yield address
            return
        Thread(target=server.serve_forever, daemon=True).start()
        yield address
        server.shutdown()


@pytest.mark.usefixtures("cached")
@pytest.mark.parametrize("status", [None, 503, 429])
def test_without_the_hub_the_local_cache_answers_and_else_it_may_pass(
    status: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub(monkeypatch, status) as address:
        assert resolve("owner/model") == Located("owner/model", COMMIT, local=False)
        with pytest.raises(ConnectionError) as info:
            resolve("owner/other")
    said = str(info.value)
    assert said.startswith(f"Hugging Face at {address} cannot be reached (")
    assert str(status or "[Errno 111] Connection refused") in said
    assert said.endswith(
        " and the local cache holds no copy of 'owner/other' at 'main'; try again later, download it first with"
        " 'hf download owner/other', or give the path of a folder"
    )
    assert len(said.splitlines()) == 1


@pytest.mark.usefixtures("cached")
def test_what_the_hub_refuses_stays_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with hub(monkeypatch, 403) as address:
        assert resolve("owner/model").revision == COMMIT
        with pytest.raises(LookupError, match=rf"{address} refused \(403 .* no copy of 'owner/other'"):
            resolve("owner/other")
