"""A point's config is the one that Hydra composes, though its files are read once for many points."""

from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf

import mprm.stages  # noqa: F401 - makes the sweeper known to Hydra
from mprm.stages.composer import PointComposer

CONF = Path(__file__).resolve().parents[2] / "conf"
POINTS = [
    ["selector=bis", "selector.alpha=0.05", "seed=1"],
    ["selector=bis", "selector.alpha=0.5", "seed=2"],
    ["selector=random", "selector.ratio=0.3", "recipe.epochs=3", "dataset.root='a=b, c'"],
    ["backbone=internvl2_5_8b", "experiment=lora_internvl2_5_8b", "trainer.devices=2"],
    ["selector=bis", "+logger.tags=[x]", "export=null"],
    ["selector=full"],
]


@pytest.fixture
def loader() -> ConfigLoader:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return GlobalHydra.instance().config_loader()


def test_the_same_config_as_hydras(loader: ConfigLoader) -> None:
    master = loader.load_configuration("config", ["seed=7"], RunMode.MULTIRUN)
    composer = PointComposer(loader)
    for overrides in [*POINTS, POINTS[0]]:
        ours = OmegaConf.to_container(composer.load_sweep_config(master, overrides))
        theirs = OmegaConf.to_container(loader.load_sweep_config(master, overrides))
        for config in (ours, theirs):
            del config["hydra"]["job"]["override_dirname"]  # type: ignore[index, arg-type, call-overload, union-attr]
        assert ours == theirs, overrides


@pytest.mark.parametrize("overrides", [["selectr=bis"], ["selector=boss"], ["selector=full", "selector.alpha=1"]])
def test_a_mistake_is_hydras_own_error(loader: ConfigLoader, overrides: list[str]) -> None:
    master = loader.load_configuration("config", [], RunMode.MULTIRUN)
    with pytest.raises(HydraException):
        PointComposer(loader).load_sweep_config(master, overrides)
