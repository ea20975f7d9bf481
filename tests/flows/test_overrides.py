from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field, PositiveInt, model_validator

from data.config import Resources, StageConfig
from flows.overrides import ConfigError, configure, field_values


class Ingest(StageConfig):
    source: str = "tiny_world"
    path: Path | None = None


class Sample(StageConfig):
    low: PositiveInt = 51
    high: PositiveInt = 60
    limit: PositiveInt | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    names: tuple[str, ...] = ("a",)
    sizes: Annotated[tuple[int, ...], Field(min_length=1)] = (1,)
    strict: bool = True

    @model_validator(mode="after")
    def _ordered(self) -> "Sample":
        if self.low > self.high:
            raise ValueError(f"need low <= high, got low={self.low}, high={self.high}")
        return self


class Recipe(StageConfig):
    ingest: Ingest = Ingest()
    sample: Sample = Sample(high=70)  # another default than the stage's own
    resources: Resources = Resources()


@pytest.mark.parametrize(
    ("assignment", "group", "field", "value"),
    [
        ("sample.low=7", "sample", "low", 7),
        ("sample.limit=9", "sample", "limit", 9),
        ("sample.limit=none", "sample", "limit", None),
        ("sample.seeds=5", "sample", "seeds", (5,)),
        ("sample.seeds=3,4", "sample", "seeds", (3, 4)),
        ("sample.seeds=[3, 4]", "sample", "seeds", (3, 4)),
        ("sample.names=1, b", "sample", "names", ("1", "b")),
        ("sample.strict=false", "sample", "strict", False),
        ("ingest.source=none", "ingest", "source", "none"),
        ("ingest.source=a=b", "ingest", "source", "a=b"),
        ("ingest.path=../shared/data/images", "ingest", "path", Path("../shared/data/images")),
        ("resources.gpu_memory=0.5", "resources", "gpu_memory", 0.5),
    ],
)
def test_values_are_read_by_the_field_s_type(assignment: str, group: str, field: str, value: object) -> None:
    changed = configure(Recipe, [assignment])
    assert getattr(getattr(changed, group), field) == value
    assert configure(Recipe, []).model_dump() == Recipe().model_dump()
    assert changed.sample.high == 70


@pytest.mark.parametrize(
    ("assignment", "problem"),
    [
        ("smaple.low=3", "smaple.low: there is no stage or field 'smaple'; did you mean 'sample'?"),
        ("sample.lwo=3", "sample.lwo: group 'sample' has no field 'lwo'; did you mean 'sample.low'?"),
        ("low=3", "low: there is no stage or field 'low'; did you mean 'sample.low'?"),
        ("depth=3", "depth: there is no stage or field 'depth'; choose from: ingest, resources, sample"),
        ("sample.low", "'sample.low' is not key=value; write for example ingest.source=tiny_world"),
        ("resources.device=gpu", "resources.device: input should be 'auto', 'cpu' or 'cuda', got 'gpu'"),
        ("sample.low=80", "sample: need low <= high, got low=80, high=70"),
        ("ingest.path.x=1", "ingest.path.x: ingest.path is a field, not a group of fields"),
        ("ingest=folder", "ingest is a group of fields; set ingest.source, ingest.path"),
        ("=3", "'=3' is not key=value; write for example ingest.source=tiny_world"),
        (
            "sample.seeds=3,x",
            "sample.seeds.1: input should be a valid integer, unable to parse string as an integer, got 'x'",
        ),
        (
            "sample.sizes=x",
            "sample.sizes.0: input should be a valid integer, unable to parse string as an integer, got 'x'",
        ),
        ("sample.sizes=", "sample.sizes: tuple should have at least 1 item after validation, not 0, got []"),
        ("sample.seeds=[3,", "sample.seeds: '[3,' is not valid JSON: Expecting value at character 4"),
    ],
)
def test_a_mistake_is_named_with_its_remedy(assignment: str, problem: str) -> None:
    with pytest.raises(ConfigError) as info:
        configure(Recipe, [assignment])
    assert info.value.problems == [problem]


def test_all_mistakes_are_shown_together() -> None:
    with pytest.raises(ConfigError) as info:
        configure(Recipe, ["smaple.low=3", "sample.low=x", "sample.high=0", "ingest.pth=a", "ingest.source=b"] * 2)
    starts = [problem.split(":")[0] for problem in info.value.problems]
    assert starts == [
        "smaple.low", "ingest.pth", "smaple.low is given twice", "sample.low is given twice",
        "sample.high is given twice", "ingest.pth is given twice", "ingest.source is given twice",
        "sample.low", "sample.high",
    ]  # fmt: skip


def test_listed_fields_are_accepted_again() -> None:
    listed = list(field_values(Recipe()))
    assert "sample.seeds=0,1,2" in listed
    assert "ingest.path=none" in listed
    assert configure(Recipe, listed) == Recipe()
