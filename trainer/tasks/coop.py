"""The eleven data sets of CoOp (Zhou et al. 2022), laid out as the DATASETS.md of its repository says.

Nine have a split file that CoOp publishes, `{"train": [[image, class number, class name], ...], "val": ...,
"test": ...}`. ImageNet has a folder for each class, named in a text file, and reports its validation
images. FGVCAircraft has text files of its own.
"""

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError

from shared.errors import UserError
from shared.text_files import read_text, split_lines
from trainer.tasks.class_folders import read_class_folders
from trainer.tasks.examples import Example
from trainer.tasks.raw import RawExample


@dataclass(frozen=True)
class Layout:
    """Where a data set keeps its index and images."""

    home: str
    """Its folder in the folder of all data sets, CoOp's $DATA."""
    index: str
    """The file in its folder that lists images or classes."""
    images: str
    """The folder in its folder that the paths of images are relative to."""


LAYOUTS = {
    "imagenet": Layout("imagenet", "classnames.txt", "images"),
    "caltech101": Layout("caltech-101", "split_zhou_Caltech101.json", "101_ObjectCategories"),
    "oxford_pets": Layout("oxford_pets", "split_zhou_OxfordPets.json", "images"),
    "stanford_cars": Layout("stanford_cars", "split_zhou_StanfordCars.json", ""),
    "flowers102": Layout("oxford_flowers", "split_zhou_OxfordFlowers.json", "jpg"),
    "food101": Layout("food-101", "split_zhou_Food101.json", "images"),
    "fgvc_aircraft": Layout("fgvc_aircraft", "images_variant_train.txt", "images"),
    "sun397": Layout("sun397", "split_zhou_SUN397.json", "SUN397"),
    "dtd": Layout("dtd", "split_zhou_DescribableTextures.json", "images"),
    "eurosat": Layout("eurosat", "split_zhou_EuroSAT.json", "2750"),
    "ucf101": Layout("ucf101", "split_zhou_UCF101.json", "UCF-101-midframes"),
}


class SplitFile(BaseModel):
    """A split file: for each image its path, the number of its class and the name of its class."""

    train: list[tuple[str, int, str]]
    val: list[tuple[str, int, str]]
    test: list[tuple[str, int, str]]


def read_coop(folder: Path, name: str | None) -> dict[str, list[RawExample]] | None:
    """Read the data set `name` of `LAYOUTS`, or the one in `folder`; None if there is none and none is named.

    Args:
        folder: the data set's own folder, or CoOp's $DATA.
        name: any other value has the data set recognised by its index file.

    Raises:
        UserError: the index file is absent or broken, names an image that is absent, or several data sets are present.
    """
    found = {
        key: home
        for key, layout in LAYOUTS.items()
        for home in (folder, folder / layout.home)
        if (home / layout.index).is_file() and (home / layout.images).is_dir()
    }
    if name not in LAYOUTS:
        if len(found) > 1:
            raise UserError(f"{folder}: it holds several data sets; set task.config to one of {', '.join(found)}")
        name = next(iter(found), None)
        if name is None:
            return None
    layout = LAYOUTS[name]
    if name not in found:
        raise UserError(
            f"{folder}: task.config = {name!r} needs {layout.index} and {layout.images or 'the images'} in it or in "
            f"its folder {layout.home}; the DATASETS.md of CoOp's repository says where to get them"
        )
    index, images = found[name] / layout.index, found[name] / layout.images
    match name:
        case "imagenet":
            return _read_imagenet(index, images)
        case "fgvc_aircraft":
            return _read_aircraft(index.parent, images)
        case _:
            return _read_split_file(index, images)


def _read_split_file(index: Path, images: Path) -> dict[str, list[RawExample]]:
    try:
        splits = SplitFile.model_validate_json(index.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"[{part!r}]" for part in first["loc"])
        raise UserError(f"{index}: not a split file: {where and f'at {where}, '}{first['msg']}") from None
    parts = {"train": splits.train, "dev": splits.val, "test": splits.test}
    return {part: [_row(images / image, label, index) for image, _, label in rows] for part, rows in parts.items()}


def _read_imagenet(index: Path, images: Path) -> dict[str, list[RawExample]]:
    names = dict(_read_pairs(index))
    splits = {"train": read_class_folders(images / "train"), "test": read_class_folders(images / "val")}
    unnamed = {wnid for rows in splits.values() for _, wnid in rows} - names.keys()
    if unnamed:
        raise UserError(f"{index}: it has no name for the class {min(unnamed)}, a folder of {images}")
    return {split: [(example, names[wnid]) for example, wnid in rows] for split, rows in splits.items()}


def _read_aircraft(folder: Path, images: Path) -> dict[str, list[RawExample]]:
    splits = {}
    for split, name in (("train", "train"), ("dev", "val"), ("test", "test")):
        index = folder / f"images_variant_{name}.txt"
        splits[split] = [_row(images / f"{image}.jpg", variant, index) for image, variant in _read_pairs(index)]
    return splits


def _read_pairs(path: Path) -> list[tuple[str, str]]:
    """The first word of each line and the rest of it."""
    pairs = []
    for number, line in enumerate(split_lines(read_text(path).rstrip("\r\n")), 1):
        key, _, name = line.strip().partition(" ")
        if not name:
            raise UserError(f"{path}: line {number} is not a key and a name: {line!r}")
        pairs.append((key, name))
    return pairs


def _row(image: Path, label: str, index: Path) -> RawExample:
    if not image.is_file():
        raise UserError(f"{index}: it names {image}, which does not exist")
    return Example(image=image), label.replace("_", " ")
