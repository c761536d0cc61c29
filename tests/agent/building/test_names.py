"""What built images are called: the same for the same content, and something else for anything else."""

from pathlib import Path

import pytest

from agent.building.context import choose
from agent.building.names import local_repository, tag
from agent.building.recipe import Recipe
from protocol.image_names import parse_image
from tests.agent.building.test_context import launch


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A job's code."""
    folder = tmp_path / "code"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "job").mkdir()
    return folder


def test_the_tag_tells_all_that_goes_into_an_image(code: Path) -> None:
    frozen = code.parent / "job" / "requirements.frozen.txt"
    frozen.write_text("numpy==1")
    resolved = launch(code)
    recipe = choose(resolved, None)
    first = tag(resolved, recipe, None)
    assert first == tag(launch(code, overrides={"entry_point": ["x"], "args": ["y"]}), choose(launch(code), None), None)
    others = [
        tag(resolved, choose(resolved, "registry.test/base"), None),
        tag(resolved, recipe, "linux/arm64"),
        tag(resolved, Recipe(recipe.dockerfile, code / "sub", "", recipe.more), None),
        tag(launch(code.rename(code.parent / "other"), docker={}), _moved(recipe, code.parent / "other"), None),
    ]
    frozen.write_text("numpy==2")
    others.append(tag(launch(code.parent / "other"), choose(launch(code.parent / "other"), None), None))
    assert len({first, *others}) == 1 + len(others)


def _moved(recipe: Recipe, code: Path) -> Recipe:
    return Recipe(recipe.dockerfile, code, recipe.place, recipe.more)


@pytest.mark.parametrize("name", ["job-https___git.test_a.git_train.py", "Train_It", "---", "a.._b"])
def test_images_that_stay_here_are_called_after_their_job(code: Path, name: str) -> None:
    resolved = launch(code)
    reference = resolved.spec.source.reference  # pyright: ignore[reportAttributeAccessIssue] -- it is a job's
    object.__setattr__(reference, "collection", name)
    found = parse_image(f"{local_repository(resolved)}:1")
    assert found
    assert found.path.startswith("launchbay/")
