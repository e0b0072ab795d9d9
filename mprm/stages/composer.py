"""Composing the configs of many points that share their groups' choices: once for each set of choices."""

from __future__ import annotations

from copy import deepcopy
from functools import cache

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig


class PointComposer:
    """Takes the place of Hydra's loader for the points of a multirun, and gives what it would give.

    Hydra reads some twenty files for every point, and applies the values last. Here the files are read once for all
    points that choose the same options of the groups.
    """

    def __init__(self, loader: ConfigLoader) -> None:
        self.loader = loader
        self.parser = OverridesParser.create(config_loader=loader)
        self.is_group = cache(lambda key: bool(loader.get_group_options(key)))
        self._chosen = cache(self._compose)

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """The config of a point. Raises as Hydra's loader does."""
        parsed = self.parser.parse_overrides(sweep_overrides)
        values = [one for one in parsed if not self.is_group(one.key_or_group)]
        self.master = master_config
        config = deepcopy(self._chosen(tuple(one.input_line for one in parsed if one not in values)))
        ConfigLoaderImpl._apply_overrides_to_config(values, config)
        config.hydra.overrides.task = sweep_overrides
        return config

    def _compose(self, choices: tuple[str, ...]) -> DictConfig:
        return self.loader.load_sweep_config(self.master, list(choices))
