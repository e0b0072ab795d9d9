"""Model folders on disk."""

import json
from pathlib import Path


def check_folder(path: str | None, model_types: tuple[str, ...]) -> Path:
    """The folder as a Path. Raises ValueError if it is not given, not there, or holds another architecture."""
    if path is None:
        raise ValueError(f"backbone.path is not set; give the folder of the downloaded {model_types[0]} weights")
    folder = Path(path)
    config = folder / "config.json"
    if not config.is_file():
        raise ValueError(f"backbone.path={path} has no config.json; give the folder of the downloaded weights")
    found = json.loads(config.read_text()).get("model_type")
    if found not in model_types:
        wanted = " or ".join(repr(name) for name in model_types)
        raise ValueError(f"backbone.path={path} holds model_type {found!r}, not {wanted}; choose another backbone=")
    return folder
