"""What the card and the facts of an exported data set tell of the machine they were made on: nothing."""

from pathlib import Path
from typing import Any

import pytest

from data.artifact import Counts, seal
from tasks.card import facts_of


def exported(folder: Path, config: dict[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
    """The facts of an artifact with these, as they are published."""
    folder.mkdir(exist_ok=True)
    artifact = seal(folder, Counts(read=0, kept=0, written=0), stage="generate", config=config, facts=facts, inputs={})
    (stage,) = facts_of([artifact])["stages"]
    return {"config": stage["config"], "facts": stage["facts"]}


@pytest.mark.parametrize(
    ("setting", "published"),
    [
        ("/home/alice/photos", "photos"),
        ("/home/alice/my photos, 2024/a:b/c", "c"),
        ("../alice/private", "private"),
        ("./private/model", "model"),
        ("~/alice/p", "p"),
        ("~alice/p", "p"),
        ("alice/private/model", "model"),
        ("cirr:test1:/home/alice/secret/cirr", "cirr:test1:cirr"),
        ("cirr:test1:../secret/cirr", "cirr:test1:cirr"),
        ("cirr:test1:secret/cirr", "cirr:test1:cirr"),
        ("cirr:test1://home/alice/cirr", "cirr:test1:cirr"),
        ("/home/alice/a,~/b,../c/d", "a,b,d"),
        ("/home/alice/a:/home/alice/b", "a:b"),
        ("file:///home/alice/photos", "file:photos"),
        ("/home/alice/q.pth+/home/alice/tower.pth", "q.pth+tower.pth"),
        ("alice/q.pth+alice/tower.pth", "q.pth+tower.pth"),
        ("cirr:test1", "cirr:test1"),
        ("openbmb/MiniCPM-V-2_6", "openbmb/MiniCPM-V-2_6"),
        ("owner/name@refs/pr/1", "owner/name@refs/pr/1"),
        ("mra_cir/modification", "mra_cir/modification"),
        ("instruct_cir/templates/query/1", "instruct_cir/templates/query/1"),
        ("instruct_cir/templates/query/none", "none"),  # no such prompt
        ("http://localhost:8000/v1", "http://localhost:8000/v1"),
        ("https://host/a,/home/alice/b", "https://host/a,b"),
        ("hf://datasets/owner/name", "hf://datasets/owner/name"),
        ("tiny_llava", "tiny_llava"),
        ("", ""),
    ],
)
def test_of_a_path_the_last_name_is_published(tmp_path: Path, setting: str, published: str) -> None:
    found = exported(tmp_path / "a", {"model": setting, "several": [setting]}, {"key": {setting: 1}})
    assert found["config"] == {"model": published, "several": [published]}
    assert found["facts"] == {"key": {published: 1}}


@pytest.mark.parametrize("name", ["accounts/x/models/y", "owner/name:free", "owner/name:free@r1", "@cf/meta/llama"])
def test_a_service_names_its_models_as_it_likes(tmp_path: Path, name: str) -> None:
    config = {"model": name, "backend": "openai"}
    assert exported(tmp_path / "a", config, {})["config"] == config
    found = exported(tmp_path / "b", {"model": "/home/alice/model", "backend": "openai"}, {})
    assert found["config"] == {"model": "model", "backend": "openai"}


def test_where_only_paths_can_stand_two_names_are_a_path(tmp_path: Path) -> None:
    galleries = ["private/photos", "secret/photos", "cirr:test1"]
    config = {
        "path": "private/photos",
        "options": {"cirr": {"root": "private/cirr"}},
        "contamination": {"galleries": galleries, "threshold": 5.0},
        "generate": {"model": "private/photos"},
    }
    found = exported(tmp_path / "a", config, {"contamination": dict(zip(galleries, "abc", strict=True))})
    assert found["config"] == {
        "path": "photos",
        "options": {"cirr": {"root": "cirr"}},
        "contamination": {"galleries": ["photos", "photos", "cirr:test1"], "threshold": 5.0},
        "generate": {"model": "private/photos"},  # may be an id of the hub
    }
    # Two galleries of one name are two still.
    assert found["facts"] == {"contamination": {"photos": "a", "photos (2)": "b", "cirr:test1": "c"}}


def test_a_folder_that_is_there_is_no_id_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert exported(tmp_path / "a", {"model": "private/model"}, {})["config"] == {"model": "private/model"}
    (tmp_path / "private" / "model").mkdir(parents=True)
    assert exported(tmp_path / "b", {"model": "private/model"}, {})["config"] == {"model": "model"}
