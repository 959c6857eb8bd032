"""Image data: folders, hub sets and the layouts of CoOp's data sets, and the recipes that read them."""

import io
import json
from collections import Counter
from pathlib import Path

import datasets
import pytest
from PIL import Image

from shared.config import CommandLine
from shared.errors import UserError
from shared.settings import TaskSettings
from trainer.tasks import load_task
from trainer.tasks.images import read_images

CIFAR10 = Path(__file__).resolve().parents[3] / "shared" / "data" / "cifar10"


def png(shade=0):
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (shade, 0, 0)).save(file, "PNG")
    return file.getvalue()


def write(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png())


def read(path=None, **values):
    return read_images(TaskSettings(format="image", path=None if path is None else str(path), **values))


def named(rows, root):
    """Each image by its path from `root`, and its raw label."""
    return [(str(example.image.relative_to(root)), label) for example, label in rows]


def refusal(*arguments, **values):
    with pytest.raises(UserError) as caught:
        read(*arguments, **values)
    line = str(caught.value)
    assert "\n" not in line
    return line


# Folders of folders


@pytest.mark.parametrize("dev", ["dev", "val", "validation"])
def test_folders_name_splits_and_classes(tmp_path, dev):
    write(*(tmp_path / name for name in ("train/cat/2.PNG", "train/cat/1.jpg", "train/big_dog/a.webp")))
    write(tmp_path / dev / "cat/3.jpeg", tmp_path / "test/big_dog/4.bmp")
    splits = read(tmp_path)
    assert named(splits["train"], tmp_path) == [
        ("train/big_dog/a.webp", "big_dog"),
        ("train/cat/1.jpg", "cat"),
        ("train/cat/2.PNG", "cat"),
    ]
    assert named(splits["dev"], tmp_path) == [(f"{dev}/cat/3.jpeg", "cat")]
    assert named(splits["test"], tmp_path) == [("test/big_dog/4.bmp", "big_dog")]


def test_hidden_files_and_other_files_are_passed_over(tmp_path):
    write(
        *(tmp_path / name for name in ("train/cat/1.png", "train/cat/._1.png", "train/.cache/1.png", "test/cat/2.png"))
    )
    (tmp_path / "train/cat/notes.txt").write_text("taken in May")
    (tmp_path / "train/labels.csv").write_text("1,cat")
    splits = read(tmp_path)
    assert named(splits["train"], tmp_path) == [("train/cat/1.png", "cat")]
    assert splits.keys() == {"train", "test"}


def test_a_folder_without_splits_is_one_set_and_a_third_of_it_can_be_reported(tmp_path):
    write(*(tmp_path / f"{name}/{number}.png" for name in ("cat", "dog") for number in range(9)))
    splits = read(tmp_path)
    assert splits.keys() == {"train"} and Counter(label for _, label in splits["train"]) == {"cat": 9, "dog": 9}
    task = load_task(TaskSettings(format="image", path=str(tmp_path), report="third", shots=2, dev_shots=2), 1)
    assert task.labels == ["cat", "dog"]
    assert [len(split.examples) for split in (task.train, task.dev, task.test)] == [4, 4, 6]
    keys = [example.key for split in (task.train, task.dev, task.test) for example in split.examples]
    assert len(set(keys)) == 14


def test_folders_that_hold_no_images_are_refused(tmp_path):
    (tmp_path / "train").mkdir()
    line = refusal(tmp_path)
    assert f"{tmp_path}/train" in line and "no folders" in line
    write(tmp_path / "train/cat/1.png")
    (tmp_path / "train/dog").mkdir()
    line = refusal(tmp_path)
    assert f"{tmp_path}/train/dog" in line and "no images" in line and ".png" in line
    (tmp_path / "bare").mkdir()
    assert "no folders" in refusal(tmp_path / "bare")
    assert "task.path" in refusal(tmp_path / "nosuch")
    assert "task.path" in refusal() and "task.hub" in refusal()


def test_real_images_are_read():
    if not CIFAR10.is_dir():
        pytest.skip("needs ../shared/data/cifar10, which is not there")
    splits = read(CIFAR10)
    assert splits.keys() == {"train", "test"}
    for rows in splits.values():
        assert set(Counter(label for _, label in rows).values()) == {60}
        with Image.open(rows[0][0].image) as image:
            assert image.size == (32, 32)
    command = CommandLine("test", "Test.")
    settings = command.resolve(command.parse_args(["cifar10-coop", "--task.path", str(CIFAR10)]))
    task = load_task(settings.task, 1)
    assert task.format == "image" and "airplane" in task.labels and len(task.labels) == 10
    assert [len(split.examples) for split in (task.train, task.dev, task.test)] == [160, 40, 600]
    for example, target in zip(task.train.examples, task.train.targets.tolist(), strict=True):
        assert example.image.parent.name == task.labels[target]


# Hub sets, read from a local folder by the same call


def save(folder, split, labels, kind, **columns):
    features = {"image": datasets.Image(), "label": kind}
    rows = [{"image": {"bytes": png(shade), "path": None}, "label": label} for shade, label in enumerate(labels)]
    table = datasets.Dataset.from_list(rows, features=datasets.Features(features)).rename_columns(columns)
    folder.mkdir(exist_ok=True)
    table.to_parquet(folder / f"{split}.parquet")
    return str(folder)


ANIMALS = datasets.ClassLabel(names=["cat", "dog"])


def test_a_hub_set_keeps_its_images_encoded_and_names_its_classes(tmp_path):
    for split in ("train", "validation", "test"):
        hub = save(tmp_path / "set", split, [1, 0, 1], ANIMALS, image="img", label="animal")
    splits = read(hub=hub, image="img", label="animal")
    assert splits.keys() == {"train", "dev", "test"}
    assert [label for _, label in splits["dev"]] == ["dog", "cat", "dog"]
    assert [example.image for example, _ in splits["train"]] == [png(0), png(1), png(2)]


def test_a_hub_set_may_have_labels_in_words(tmp_path):
    hub = save(tmp_path / "set", "train", ["tabby", "husky"], datasets.Value("string"))
    assert [label for _, label in read(hub=hub)["train"]] == ["tabby", "husky"]


def test_a_hub_set_of_files_keeps_their_paths(tmp_path):
    write(*(tmp_path / name for name in ("train/cat/1.png", "train/dog/2.png", "test/cat/3.png")))
    splits = read(hub=str(tmp_path))
    assert named(splits["train"], tmp_path) == [("train/cat/1.png", "cat"), ("train/dog/2.png", "dog")]
    assert named(splits["test"], tmp_path) == [("test/cat/3.png", "cat")]


def test_a_split_with_hidden_labels_is_not_there(tmp_path):
    save(tmp_path / "set", "train", [0, 1], ANIMALS)
    hub = save(tmp_path / "set", "test", [-1, -1], ANIMALS)
    assert read(hub=hub).keys() == {"train"}
    save(tmp_path / "part", "train", [0, 1, -1], ANIMALS)
    line = refusal(hub=str(tmp_path / "part"))
    assert "train row 3" in line and "'label'" in line


def test_a_row_without_an_image_is_refused(tmp_path):
    rows = [{"image": {"bytes": png(), "path": None}, "label": "cat"}, {"image": None, "label": "dog"}]
    table = datasets.Dataset.from_list(
        rows, features=datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    )
    table.to_parquet(tmp_path / "train.parquet")
    line = refusal(hub=str(tmp_path))
    assert "train row 2" in line and "'image'" in line


@pytest.mark.parametrize("key", ["image", "label"])
def test_a_hub_set_without_the_column_is_refused(tmp_path, key):
    hub = save(tmp_path / "set", "train", [0, 1], ANIMALS)
    line = refusal(hub=hub, **{key: "other"})
    assert f"task.{key}" in line and "'other'" in line and "image, label" in line


def test_a_column_that_holds_no_images_is_refused(tmp_path):
    hub = save(tmp_path / "set", "train", [0, 1], ANIMALS)
    line = refusal(hub=hub, image="label")
    assert "task.image" in line and "ClassLabel" in line


# CoOp's data sets

SPLIT_FILES = {
    "caltech101": ("caltech-101", "split_zhou_Caltech101.json", "101_ObjectCategories"),
    "oxford_pets": ("oxford_pets", "split_zhou_OxfordPets.json", "images"),
    "stanford_cars": ("stanford_cars", "split_zhou_StanfordCars.json", "."),
    "flowers102": ("oxford_flowers", "split_zhou_OxfordFlowers.json", "jpg"),
    "food101": ("food-101", "split_zhou_Food101.json", "images"),
    "sun397": ("sun397", "split_zhou_SUN397.json", "SUN397"),
    "dtd": ("dtd", "split_zhou_DescribableTextures.json", "images"),
    "eurosat": ("eurosat", "split_zhou_EuroSAT.json", "2750"),
    "ucf101": ("ucf101", "split_zhou_UCF101.json", "UCF-101-midframes"),
}
"""As the DATASETS.md of CoOp's repository lays them out."""

SPLIT = {
    "train": [["b/1.jpg", 0, "sea_lake"], ["a/2.jpg", 1, "River"], ["b/3.jpg", 0, "sea_lake"]],
    "val": [["b/4.jpg", 0, "sea_lake"], ["a/5.jpg", 1, "River"]],
    "test": [["a/6.jpg", 1, "River"], ["b/7.jpg", 0, "sea_lake"]],
}


def make_set(root, name):
    """A small data set as CoOp lays it out in `root`; its own folder."""
    match name:
        case "imagenet":
            home = root / "imagenet"
            for wnid in ("n01440764", "n02066245"):
                write(*(home / f"images/train/{wnid}/{wnid}_{number}.JPEG" for number in range(2)))
                write(home / f"images/val/{wnid}/ILSVRC2012_val_{wnid}.JPEG")
            (home / "classnames.txt").write_text("n01440764 tench\nn02066245 grey whale\nn03126707 crane\n")
        case "fgvc_aircraft":
            home = root / "fgvc_aircraft"
            for number, split in enumerate(("train", "val", "test")):
                write(home / f"images/{number}1.jpg", home / f"images/{number}2.jpg")
                (home / f"images_variant_{split}.txt").write_text(f"{number}1 737-200\n{number}2 Cessna 172\n")
        case _:
            folder, index, images = SPLIT_FILES[name]
            home = root / folder
            write(*(home / images / image for rows in SPLIT.values() for image, _, _ in rows))
            (home / index).write_text(json.dumps(SPLIT))
    return home


@pytest.mark.parametrize("name", SPLIT_FILES)
def test_a_split_file_is_followed(tmp_path, name):
    home = make_set(tmp_path, name)
    images = home / SPLIT_FILES[name][2]
    splits = read(home)
    assert splits == read(tmp_path) == read(tmp_path, config=name) == read(home, config=name)
    assert named(splits["train"], images) == [("b/1.jpg", "sea lake"), ("a/2.jpg", "River"), ("b/3.jpg", "sea lake")]
    assert named(splits["dev"], images) == [("b/4.jpg", "sea lake"), ("a/5.jpg", "River")]
    assert named(splits["test"], images) == [("a/6.jpg", "River"), ("b/7.jpg", "sea lake")]


def test_imagenet_is_named_by_its_text_file_and_reports_its_validation_images(tmp_path):
    home = make_set(tmp_path, "imagenet")
    splits = read(home)
    assert splits == read(tmp_path, config="imagenet")
    assert splits.keys() == {"train", "test"}
    assert [label for _, label in splits["train"]] == ["tench", "tench", "grey whale", "grey whale"]
    assert named(splits["test"], home / "images/val")[1] == (
        "n02066245/ILSVRC2012_val_n02066245.JPEG",
        "grey whale",
    )


def test_aircraft_follow_their_own_lists(tmp_path):
    home = make_set(tmp_path, "fgvc_aircraft")
    splits = read(home)
    assert splits == read(tmp_path, config="fgvc_aircraft")
    assert named(splits["train"], home) == [("images/01.jpg", "737-200"), ("images/02.jpg", "Cessna 172")]
    assert named(splits["dev"], home) == [("images/11.jpg", "737-200"), ("images/12.jpg", "Cessna 172")]
    assert named(splits["test"], home) == [("images/21.jpg", "737-200"), ("images/22.jpg", "Cessna 172")]


def test_of_several_sets_one_must_be_named(tmp_path):
    make_set(tmp_path, "dtd")
    make_set(tmp_path, "eurosat")
    line = refusal(tmp_path)
    assert "task.config" in line and "dtd" in line and "eurosat" in line
    assert named(read(tmp_path, config="dtd")["test"], tmp_path)[0] == ("dtd/images/a/6.jpg", "River")


@pytest.mark.parametrize("missing", ["split_zhou_OxfordPets.json", "images"])
def test_a_set_that_is_not_whole_says_what_is_missing(tmp_path, missing):
    home = make_set(tmp_path, "oxford_pets")
    (home / missing).rename(tmp_path / "elsewhere")
    for path in (tmp_path, home):
        line = refusal(path, config="oxford_pets")
        assert "'oxford_pets'" in line and missing in line and "DATASETS.md" in line


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"train": [', "EOF"),
        ("[]", "object"),
        (json.dumps({**SPLIT, "val": None}), "['val']"),
        (json.dumps({key: SPLIT[key] for key in ("train", "val")}), "['test']"),
        (json.dumps({**SPLIT, "test": [*SPLIT["test"], ["a/6.jpg", 1]]}), "['test'][2]"),
        (json.dumps({**SPLIT, "test": [["a/6.jpg", "x", "River"]]}), "['test'][0][1]"),
        (json.dumps({**SPLIT, "test": [["a/9.jpg", 1, "River"]]}), "a/9.jpg"),
        (b"\xff\xfe{}", ""),
    ],
)
def test_a_broken_split_file_is_refused(tmp_path, text, named):
    home = make_set(tmp_path, "dtd")
    (home / "split_zhou_DescribableTextures.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    line = refusal(home)
    assert str(home / "split_zhou_DescribableTextures.json") in line and named in line


@pytest.mark.parametrize(
    ("text", "named"),
    [(b"n01440764 tench\n", "n02066245"), (b"n01440764 tench\nn02066245\n", "line 2"), (b"\xff\xff", "classnames.txt")],
)
def test_broken_names_of_imagenet_are_refused(tmp_path, text, named):
    home = make_set(tmp_path, "imagenet")
    (home / "classnames.txt").write_bytes(text)
    line = refusal(home)
    assert str(home / "classnames.txt") in line and named in line


def test_a_missing_part_is_refused(tmp_path):
    home = make_set(tmp_path, "fgvc_aircraft")
    (home / "images_variant_val.txt").unlink()
    assert str(home / "images_variant_val.txt") in refusal(home)
    home = make_set(tmp_path, "imagenet")
    (home / "images/val").rename(home / "images/test")
    assert str(home / "images/val") in refusal(home)


# Recipes


@pytest.mark.parametrize("name", ["imagenet", "fgvc_aircraft", *SPLIT_FILES])
def test_each_of_coops_sets_has_a_recipe_that_reads_it(tmp_path, name):
    make_set(tmp_path, name)
    make_set(tmp_path, "dtd")
    command = CommandLine("test", "Test.")
    options = ["--task.path", str(tmp_path), "--task.shots", "1", "--task.dev_shots", "1"]
    settings = command.resolve(command.parse_args([f"{name}-coop", *options]))
    task = load_task(settings.task, 1)
    assert len(task.labels) == 2 and len(task.train.examples) == len(task.test.examples) == 2
    assert settings.recipe == f"{name}-coop" and settings.epochs == (50 if name == "imagenet" else 200)
    assert (settings.backbone.family, settings.backbone.augment) == ("dual_encoder", True)
    assert (settings.prompt.num_tokens, settings.prompt.init, settings.prompt.per_class) == (16, "random", False)
    assert (settings.optimizer.name, settings.optimizer.lr, settings.optimizer.schedule) == ("sgd", 2e-3, "cosine")
    assert settings.task.description != TaskSettings().description
