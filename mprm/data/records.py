"""A JSON lines file whose records name images."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, TypeVar

from mprm.data.rollouts import Dropped, ImageFolder, Unusable, numbered_lines

Read = TypeVar("Read")


@dataclass(frozen=True, kw_only=True)
class RecordFile:
    """Records of `path`; their image paths start from `images`, by default the folder of `path`."""

    GROUP: ClassVar[str]  # of the configuration, for messages
    WANTED: ClassVar[str]  # what to give as `path`

    path: str | None = None
    images: str | None = None

    @cached_property
    def image_folder(self) -> ImageFolder:
        """Where images are looked for."""
        return ImageFolder(self.images or self.file().parent)

    def image_path(self, image: str) -> Path:
        """The file of an image path as it stands in a record; ValueError when it is not there."""
        path = self.image_folder.find(image)
        if path is None:
            raise ValueError(
                f"image {image} is not under {self.image_folder.root}; restore it, or give {self.GROUP}.images"
            )
        return path

    def file(self) -> Path:
        """`path`; ValueError when it is not set or not there."""
        if self.path is None:
            raise ValueError(f"{self.GROUP}.path is not set; give {self.WANTED}")
        if not Path(self.path).is_file():
            raise ValueError(f"{self.GROUP}.path={self.path} is not a file; give {self.WANTED}")
        return Path(self.path)

    def each(self, read: Callable[[str, int, bytes], Read]) -> Iterator[Read | Dropped]:
        """What `read` makes of every line that is not blank, given the file's stem, the line's number and the line; a
        Dropped where it raises Unusable."""
        path = self.file()
        with open(path, "rb") as stream:
            for number, _, _, line in numbered_lines(stream):
                if line.isspace():
                    continue
                try:
                    yield read(path.stem, number, line)
                except Unusable as unusable:
                    yield Dropped(path.stem, number, unusable.reason)
