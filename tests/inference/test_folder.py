"""A folder of weights names its family."""

from pathlib import Path

import pytest

from mprm.backbones.internvl import InternVL
from mprm.backbones.qwen2_5_vl import Qwen2_5_VL
from mprm.inference.local import backbone_class


def folder(path: Path, model_type: str) -> Path:
    (path / "config.json").write_text(f'{{"model_type": "{model_type}"}}')
    return path


@pytest.mark.parametrize(
    ("model_type", "family"), [("internvl", InternVL), ("internvl_chat", InternVL), ("qwen2_5_vl", Qwen2_5_VL)]
)
def test_a_folder_is_of_the_family_of_its_model_type(tmp_path: Path, model_type: str, family: type) -> None:
    assert backbone_class(folder(tmp_path, model_type)) is family
    assert backbone_class(str(tmp_path)) is family


def test_what_is_of_no_family_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\A.*nowhere has no config.json.*\Z"):
        backbone_class(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"\A.*holds model_type 'bert', not 'internvl' or .* 'qwen2_5_vl'.*\Z"):
        backbone_class(folder(tmp_path, "bert"))
