"""Image files of a corpus: where they are looked for, and that none is taken from outside its folder."""

import os
import posixpath
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from mprm.data.lines import Unusable

ARCHIVE = "VisualPRM400K-v1.1-Raw"  # the folder that published image paths begin with
BASES = ("", "images", ARCHIVE, f"images/{ARCHIVE}")  # folders below the root that image paths may start from
OUTSIDE = re.compile(r"/|\.\.(/|\Z)|(data|file):|[a-z][a-z0-9+.-]*:/", re.IGNORECASE)


def plain_path(image: str) -> str:
    """The one spelling of an image path: slashes, no empty part, no `.`, no `..` but at the beginning."""
    if "\\" in image or "//" in image or "./" in image:
        return posixpath.normpath(image.replace("\\", "/"))
    return image


class ImageFolder:
    """Tells which images of a corpus exist, listing each folder once instead of asking for every record.

    An image path is tried below the root, ROOT/images and the published archive's folder in either; then below those
    folders of these after which the source is named (nlvr2 for nlvr2_en). In every place it is tried as it stands and
    without its first folder, which may be the archive's name. The first file found is the one. Links are followed;
    what leads out of the root by its spelling (`..`, an absolute path, a URL) is never looked for.

    Without a root the paths are taken as they stand, and no file is looked for.
    """

    def __init__(self, root: str | Path | None, remedy: str = "restore it") -> None:
        self.root = None if root is None else str(root)
        self.remedy = remedy  # what to do about an image that is not there
        self.modified: dict[str, int | None] = {}  # every folder listed -> its mtime in ns, None when it is not there
        self._absolute = os.path.join(os.path.abspath(self.root or ""), "")
        self._listed: dict[str, tuple[frozenset[str], frozenset[str]]] = {}  # folder below the root -> files, folders
        self._named: dict[str, list[str]] = {}  # source -> folders that it is named after
        self._places: dict[tuple[str, str], list[tuple[str, frozenset[str]]]] = {}  # ready for the file's name

    @property
    def place(self) -> str | None:
        """What the names of images depend on: for the keys of caches. None without a root."""
        return None if self.root is None else os.path.abspath(self.root)

    def names(self, images: Sequence[str], source: str = "") -> tuple[str, ...]:
        """The files of a record's image paths, as paths from the root: the same file has one name, however spelled.

        Raises Unusable: image_outside, or missing_image_file.
        """
        if self.root is None:
            return tuple(map(plain_path, images))
        found = tuple([self.find(image, source) for image in images])
        if None in found:
            image = images[found.index(None)]
            outside = OUTSIDE.match(self._from_root(image))
            raise Unusable("image_outside" if outside else "missing_image_file", image)
        return found  # type: ignore[return-value]

    def find(self, image: str, source: str = "") -> str | None:
        """The file of an image path in a record of the source, as a path from the root, or None."""
        name = self._from_root(image)
        folder, _, file = name.rpartition("/")
        if name.startswith("/"):
            return None
        places = self._places.get((folder, source))
        if places is None:
            existing = [place for place in self._candidates(folder, source) if self._is_folder(place)]
            places = [(f"{place}/" if place else "", self._listing(place)[0]) for place in existing]
            self._places[folder, source] = places
        return next((place + file for place, files in places if file in files), None)

    def path(self, image: str) -> Path:
        """The file itself. Raises ValueError when it is not there, or there is no root."""
        if self.root is None:
            raise ValueError("dataset.images is not set; give the folder that image paths start from")
        name = self.find(image)
        if name is None:
            raise ValueError(f"image {image} is not under {self.root}; {self.remedy}")
        return Path(self.root, name)

    def tried(self, images: Sequence[str], source: str = "") -> str:
        """In words, where the first of the images that is not there was looked for."""
        image = next(image for image in images if self.find(image, source) is None)
        folder = self._from_root(image).rpartition("/")[0]
        places = ", ".join(place[:200] or "." for place in self._candidates(folder, source))
        name = image if len(image) <= 200 else f"{image[:200]}..."
        return f"{name} is in none of these folders of {self.root}: {places}"

    def _from_root(self, image: str) -> str:
        name = plain_path(image)
        return name.removeprefix(self._absolute) if name.startswith("/") else name

    def _candidates(self, folder: str, source: str) -> list[str]:
        """Folders, as paths from the root, in which a file is looked for whose path has this folder."""
        if folder and OUTSIDE.match(f"{folder}/"):
            return []
        first, _, rest = folder.partition("/")
        below = (rest,) if first == ARCHIVE else (folder, rest)  # the archive's folder is among BASES
        if source not in self._named:  # folders whose name the source's name begins with, the longest first
            self._named[source] = [
                posixpath.join(base, name)
                for base in filter(self._is_folder, BASES)
                for name in sorted(self._listing(base)[1], key=lambda name: (-len(name), name))
                if f"{source}_".lower().startswith(f"{name}_".lower())
            ]
        bases = (*BASES, *self._named[source])
        return list(dict.fromkeys("/".join(filter(None, (base, rest))) for base in bases for rest in below))

    def _is_folder(self, folder: str) -> bool:
        """Asks the listings of the folders above: what is not there costs no call, and its arrival changes them."""
        above = ""
        for name in folder.split("/") if folder else ():
            if name not in self._listing(above)[1]:
                return False
            above = posixpath.join(above, name)
        return True

    def _listing(self, folder: str) -> tuple[frozenset[str], frozenset[str]]:
        """Names of the files and of the folders in a folder that exists."""
        if folder not in self._listed:
            path = os.path.join(str(self.root), folder) if folder else str(self.root)
            self.modified[path] = modified_ns(path)
            files, folders = set(), set()
            with suppress(OSError), os.scandir(path) as entries:
                for entry in entries:
                    with suppress(OSError):  # e.g. a link to itself: no image, and no fault of its neighbours
                        if entry.is_file():
                            files.add(entry.name)
                        elif entry.is_dir():
                            folders.add(entry.name)
            self._listed[folder] = frozenset(files), frozenset(folders)
        return self._listed[folder]


def modified_ns(path: str) -> int | None:
    """Time of the last change in ns, None when there is nothing at `path`."""
    try:
        return os.stat(path).st_mtime_ns
    except (OSError, ValueError):
        return None
