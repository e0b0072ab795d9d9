"""Where images are looked for."""

import os
from pathlib import Path

import pytest

from mprm.data.image_folder import ImageFolder
from mprm.data.lines import Unusable

GEO, NLVR2 = "VisualPRM400K-v1.1-Raw/Geo/train/0/a.png", "images/train-0.png"


def touch(root: Path, *names: str) -> ImageFolder:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return ImageFolder(root)


@pytest.mark.parametrize(
    "base", ["", "images/", "VisualPRM400K-v1.1-Raw/", "images/VisualPRM400K-v1.1-Raw/"], ids=["flat", "i", "a", "ia"]
)
def test_public_layouts(base: str, tmp_path: Path) -> None:
    """Of NLVR2 the records name images/train-...png, which lies in .../nlvr2/images."""
    geo, nlvr2 = f"{base}Geo/train/0/a.png", f"{base}nlvr2/images/train-0.png"
    folder = touch(tmp_path, geo, nlvr2, f"{base}nlvr/images/train-0.png", f"{base}nlvr2/b.png")
    assert folder.names([GEO], "geo_en") == (geo,)
    assert folder.names([NLVR2], "nlvr2_en") == folder.names([NLVR2], "NLVR2") == (nlvr2,)
    assert folder.names(["images/b.png"], "nlvr2_zh") == (f"{base}nlvr2/b.png",)
    assert folder.names([geo, nlvr2]) == (geo, nlvr2)  # what was found is found again without a source
    assert folder.path(geo) == tmp_path / geo
    with pytest.raises(Unusable, match="missing_image_file"):
        folder.names([NLVR2], "geo_en")


def test_a_name_that_leads_to_a_file_as_it_stands_goes_first(tmp_path: Path) -> None:
    folder = touch(tmp_path, "images/0.png", "0.png", "set/images/0.png")
    assert folder.find("images/0.png", "set_en") == "images/0.png"
    assert folder.find("other/0.png", "set_en") == "0.png"


def test_one_file_has_one_name_however_it_is_spelled(tmp_path: Path) -> None:
    folder = touch(tmp_path, "a/b.png")
    spelled = ["a/b.png", "a//b.png", "./a/b.png", "a/../a/./b.png", "a\\b.png", f"{tmp_path}/a/b.png"]
    assert {folder.find(name) for name in [*spelled, "Archive-v1/a/b.png"]} == {"a/b.png"}


@pytest.mark.parametrize(
    "name",
    [
        *("/etc/passwd", "../secret.png", "a/../../secret.png", "..\\secret.png", "..", "../../../../../../etc/passwd"),
        *("file:///etc/passwd", "file:secret.png", "http://x/y.png", "HTTPS://x/y.png", "data:image/png;base64,AA"),
        *("//secret.png", "/b.png", "C:\\b.png"),
    ],
)
def test_nothing_is_taken_from_outside(name: str, tmp_path: Path) -> None:
    (tmp_path / "secret.png").touch()
    folder = touch(tmp_path / "root", "a/b.png", "b.png", "etc/passwd")
    with pytest.raises(Unusable, match="image_outside"):
        folder.names(["a/b.png", name])
    assert folder.find(name) is None
    with pytest.raises(ValueError, match=r" is not under .*/root; restore it$"):
        folder.path(name)


@pytest.mark.parametrize(
    "name", ["", ".", "a", "a/", "a/c.png", "a/b.png ", "a/b.png/c.png", "\0", "a/" * 2000 + "c.png", "x" * 5000]
)
def test_what_is_no_file_is_missing(name: str, tmp_path: Path) -> None:
    with pytest.raises(Unusable, match="missing_image_file"):
        touch(tmp_path, "a/b.png").names([name])


def test_an_odd_entry_drops_itself_alone(tmp_path: Path) -> None:
    folder = touch(tmp_path, "a/b.png", "linked/c.png")
    os.symlink("loop.png", tmp_path / "a" / "loop.png")
    os.symlink("nowhere", tmp_path / "a" / "dead.png")
    os.symlink(tmp_path / "linked", tmp_path / "a" / "folder")
    os.mkfifo(tmp_path / "a" / "pipe.png")
    (tmp_path / "a" / os.fsdecode(b"\xff.png")).touch()
    names = ("b.png", "loop.png", "dead.png", "pipe.png", "\udcfe.png", "folder/c.png")
    assert [folder.find(f"a/{name}") is not None for name in names] == [True, False, False, False, False, True]


def test_the_places_tried_are_told(tmp_path: Path) -> None:
    folder = touch(tmp_path, "images/nlvr2/images/other.png")
    told = folder.tried(["images/nlvr2/images/other.png", NLVR2], "nlvr2_en")
    assert told.startswith(f"{NLVR2} is in none of these folders of {tmp_path}: images, ., images/images, ")
    assert told.endswith("images/nlvr2/images, images/nlvr2")


def test_folders_are_listed_once_and_remembered_with_their_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, listed = touch(tmp_path, "images/a/0.png", "images/a/1.png"), []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(path) or scandir(path))
    for name in ("a/0.png", "a/1.png", "a/2.png", "b/0.png", "x/a/0.png"):
        folder.find(name)
    there = [str(tmp_path / name) if name else str(tmp_path) for name in ("", "images", "images/a")]
    assert sorted(listed) == there == sorted(folder.modified)
    assert all(folder.modified.values())
