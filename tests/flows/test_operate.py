"""Deployments that come with the repository."""

import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.recipe import Recipe, recipe_names

ROOT = Path(__file__).resolve().parents[2]
DEPLOYMENTS = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda deployment: str(deployment["name"]))
def test_deployment_names_a_flow_and_parameters_that_it_takes(deployment: dict[str, Any]) -> None:
    module, _, name = deployment["entrypoint"].rpartition(".")
    flow = getattr(importlib.import_module(module), name)
    assert set(deployment["parameters"]) <= set(inspect.signature(flow.fn).parameters)
    recipe = getattr(sys.modules[module], "RECIPE", None)
    if isinstance(recipe, Recipe):
        recipe.config.model_validate(deployment["parameters"]["config"])
        assert recipe.check(deployment["parameters"]["rerun"], deployment["parameters"]["until"]) == []
    assert deployment["concurrency_limit"]["limit"] == 1
    assert deployment["work_pool"]["name"] == "local"


def test_every_recipe_is_deployed() -> None:
    deployed = {deployment["entrypoint"].split(".")[1] for deployment in DEPLOYMENTS}
    assert set(recipe_names()) <= deployed
    names = [deployment["name"] for deployment in DEPLOYMENTS]
    assert len(set(names)) == len(names)  # of two with one name the later would replace the other
