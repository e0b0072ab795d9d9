"""Which family a folder of weights belongs to."""

from pathlib import Path

from mprm.backbones.base import Backbone
from mprm.backbones.internvl import InternVL
from mprm.backbones.loading import check_folder
from mprm.backbones.qwen2_5_vl import Qwen2_5_VL
from mprm.runs.artifacts import read_json

FAMILIES: tuple[type[Backbone], ...] = (InternVL, Qwen2_5_VL)


def backbone_class(path: str | Path | None) -> type[Backbone]:
    """The component that loads this folder. Raises ValueError if it is not there or holds another architecture."""
    by_type = {name: family for family in FAMILIES for name in family.model_types}
    folder = check_folder(None if path is None else str(path), tuple(by_type))
    return by_type[read_json(folder / "config.json")["model_type"]]
