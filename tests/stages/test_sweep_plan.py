"""The jobs of a sweep: products, grids beside each other, what the command line narrows; and their configs."""

from math import prod
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from mprm.stages.sweep import Composer, expand

CONF = Path(__file__).resolve().parents[2] / "conf"
JOBS = [
    ["selector=bis", "selector.alpha=0.05", "seed=1"],
    ["selector=bis", "selector.alpha=0.5", "seed=2"],
    ["selector=random", "selector.ratio=0.3", "recipe.epochs=3", "dataset.root='a=b, c'"],
    ["backbone=internvl2_5_8b", "experiment=lora_internvl2_5_8b", "trainer.devices=2"],
    ["selector=bis", "+logger.tags=[x]", "export=null"],
    ["selector=full"],
]
GRIDS = [
    {"selector": "bis", "selector.alpha": "0.05,0.2", "selector.ratio": "0.1,0.5"},
    {"selector": "random", "selector.ratio": "0.1,0.5"},
    {"selector": "full"},
]


def jobs(grids: list[dict[str, str]], *arguments: str) -> list[str]:
    parse = OverridesParser.create().parse_overrides
    return [" ".join(job) for job in expand(grids, arguments, parse, lambda key: key == "selector")]


def test_grids_stand_beside_each_other() -> None:
    assert jobs(GRIDS) == [
        "selector=bis selector.alpha=0.05 selector.ratio=0.1",
        "selector=bis selector.alpha=0.05 selector.ratio=0.5",
        "selector=bis selector.alpha=0.2 selector.ratio=0.1",
        "selector=bis selector.alpha=0.2 selector.ratio=0.5",
        "selector=random selector.ratio=0.1",
        "selector=random selector.ratio=0.5",
        "selector=full",
    ]


def test_a_value_replaces_those_of_the_grids_that_have_its_key() -> None:
    assert jobs(GRIDS, "selector.ratio=0.25", "selector.alpha=0.2") == [
        "selector=bis selector.alpha=0.2 selector.ratio=0.25",
        "selector=random selector.ratio=0.25",
        "selector=full",
    ]


def test_a_choice_of_a_group_narrows() -> None:
    assert jobs(GRIDS, "selector=full,random", "selector.ratio=0.5") == [
        "selector=random selector.ratio=0.5",
        "selector=full",
    ]


def test_any_other_key_holds_for_every_job() -> None:
    assert jobs(GRIDS[1:], "seed=0,1", "objective=soft", "selector.ratio=0.1") == [
        "selector=random selector.ratio=0.1 seed=0 objective=soft",
        "selector=random selector.ratio=0.1 seed=1 objective=soft",
        "selector=full seed=0 objective=soft",
        "selector=full seed=1 objective=soft",
    ]


def test_without_grids_it_is_the_product_of_the_command_line() -> None:
    assert jobs([], "selector.alpha=0.05,0.2", "seed=range(0,2)") == [
        "selector.alpha=0.05 seed=0",
        "selector.alpha=0.05 seed=1",
        "selector.alpha=0.2 seed=0",
        "selector.alpha=0.2 seed=1",
    ]
    assert jobs([]) == [""]


def test_a_job_of_two_grids_is_one() -> None:
    assert jobs([{"seed": "0,1"}, {"seed": "1,2"}]) == ["seed=0", "seed=1", "seed=2"]


def test_nothing_left_and_endless_sweeps_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^selector=reliable leaves no job of this sweep.*; hydra\.mode=RUN makes"):
        jobs(GRIDS, "seed=1", "selector=full,reliable")
    with pytest.raises(ValueError, match="'seed=interval\\(0,1\\)' has no list of values"):
        jobs(GRIDS, "seed=interval(0,1)")


@given(
    st.lists(st.dictionaries(st.sampled_from("abc"), st.lists(st.integers(0, 9), min_size=1)), min_size=1, max_size=4)
)
def test_every_job_is_a_choice_of_a_grid_and_comes_once(grids: list[dict[str, list[int]]]) -> None:
    found = jobs([{key: ",".join(map(str, values)) for key, values in grid.items()} for grid in grids])
    assert len(set(found)) == len(found)
    for job in found:
        values = dict(pair.split("=") for pair in job.split())
        assert any(values.keys() == grid.keys() and all(int(values[k]) in grid[k] for k in grid) for grid in grids)
    assert len(found) <= sum(prod(len(set(values)) for values in grid.values()) for grid in grids)


@pytest.fixture
def loader() -> ConfigLoader:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return GlobalHydra.instance().config_loader()


def test_the_same_config_as_hydras(loader: ConfigLoader) -> None:
    master = loader.load_configuration("config", ["seed=7"], RunMode.MULTIRUN)
    composer = Composer(loader, master)
    for overrides in [*JOBS, JOBS[0]]:
        ours = OmegaConf.to_container(composer.compose(overrides))
        theirs = OmegaConf.to_container(loader.load_sweep_config(master, overrides))
        for config in (ours, theirs):
            del config["hydra"]["job"]["override_dirname"]  # type: ignore[index, arg-type, call-overload, union-attr]
        assert ours == theirs, overrides


@pytest.mark.parametrize("overrides", [["selectr=bis"], ["selector=boss"], ["selector=full", "selector.alpha=1"]])
def test_a_mistake_is_hydras_own_error(loader: ConfigLoader, overrides: list[str]) -> None:
    master = loader.load_configuration("config", [], RunMode.MULTIRUN)
    with pytest.raises(HydraException):
        Composer(loader, master).compose(overrides)
