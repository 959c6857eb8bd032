"""Tasks: formats, splits that share no text, few shots by seed, labels, and what is refused."""

import json
from collections import Counter

import pandas as pd
import pytest
from conftest import HELPDESK, ROOT

from shared.errors import UserError
from shared.settings import TaskSettings
from trainer.tasks import load_task


def rows(label, count, prefix=""):
    return [{"text": f"{prefix}{label} text {number}", "label": label} for number in range(count)]


TRAIN = rows("good", 12) + rows("bad", 12)
TEST = rows("good", 5, "test ") + rows("bad", 5, "test ")


def write(folder, name, table, ending="jsonl"):
    path = folder / f"{name}.{ending}"
    frame = pd.DataFrame(table)
    match ending:
        case "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in table))
        case "csv":
            frame.to_csv(path, index=False)
        case "parquet":
            frame.to_parquet(path)
    return folder


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, "train", TRAIN)
    return write(tmp_path, "test", TEST)


def load(folder, seed=1, **values):
    return load_task(TaskSettings(**{"path": str(folder), "shots": 3, "dev_shots": 3, **values}), seed)


def texts(task):
    return task.train.texts, task.dev.texts, task.test.texts


def assert_apart(task):
    train, dev, test = map(set, texts(task))
    assert len(train) == len(task.train.texts) and len(dev) == len(task.dev.texts)
    assert not train & dev and not train & test and not dev & test


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_formats_hold_the_same_task(folder, tmp_path, ending):
    other = tmp_path / "other"
    other.mkdir()
    write(other, "train", TRAIN, ending)
    write(other, "test", TEST, ending)
    task, same = load(folder), load(other)
    assert texts(task) == texts(same)
    assert task.labels == same.labels == ["bad", "good"]
    assert task.train.targets.tolist() == same.train.targets.tolist()


def test_texts_keep_their_labels(folder):
    task = load(folder)
    for split in (task.train, task.dev, task.test):
        for text, target in zip(split.texts, split.targets.tolist(), strict=True):
            assert task.labels[target] in text
    assert Counter(task.train.targets.tolist()) == {0: 3, 1: 3}
    assert Counter(task.dev.targets.tolist()) == {0: 3, 1: 3}
    assert len(task.test.texts) == 10


@pytest.mark.parametrize("name", ["dev", "validation"])
def test_a_development_file_is_used_where_there_is_one(folder, name):
    write(folder, name, rows("good", 4, "dev ") + rows("bad", 4, "dev "))
    task = load(folder)
    assert all(text.startswith("dev ") for text in task.dev.texts)
    assert_apart(task)


def test_without_a_development_file_it_is_cut_from_train(folder):
    task = load(folder)
    assert set(task.dev.texts) <= {row["text"] for row in TRAIN}
    assert_apart(task)


@pytest.mark.parametrize("with_dev", [False, True])
def test_no_text_stands_in_two_splits_whatever_is_repeated(tmp_path, with_dev):
    shared = rows("good", 4) + rows("bad", 4)
    write(tmp_path, "train", TRAIN * 3)
    write(tmp_path, "test", shared)
    if with_dev:
        write(tmp_path, "dev", (TRAIN + rows("good", 2, "dev ") + rows("bad", 2, "dev ")) * 2)
    for seed in range(6):
        task = load(tmp_path, seed, shots=4, dev_shots=4)
        assert_apart(task)
        assert len(task.train.texts) == len(task.dev.texts) == 8


def test_repeated_rows_do_not_count_as_shots(tmp_path):
    write(tmp_path, "train", (rows("good", 5) + rows("bad", 5)) * 4)
    write(tmp_path, "test", TEST)
    assert_apart(load(tmp_path, shots=3, dev_shots=2))
    with pytest.raises(UserError, match="dev_shots = 3, but only 2 rows of class 'bad'"):
        load(tmp_path, shots=3, dev_shots=3)


def test_the_seed_draws_the_shots(folder):
    assert texts(load(folder, 1)) == texts(load(folder, 1))
    drawn = {tuple(sorted(load(folder, seed).train.texts)) for seed in range(5)}
    assert len(drawn) == 5
    assert len({tuple(sorted(load(folder, seed).dev.texts)) for seed in range(5)}) == 5
    assert len({tuple(load(folder, seed).test.texts) for seed in range(5)}) == 1


def test_test_rows_caps_test_alone_and_the_same_for_every_seed(folder):
    few, others = load(folder, 1, test_rows=4), load(folder, 2, test_rows=4)
    assert few.test.texts == others.test.texts and len(few.test.texts) == 4
    assert set(few.test.texts) <= {row["text"] for row in TEST}
    assert len(load(folder, test_rows=1000).test.texts) == 10


def test_a_capped_test_still_keeps_all_test_texts_out_of_training(tmp_path):
    write(tmp_path, "train", TRAIN)
    write(tmp_path, "test", TRAIN[:6] + TRAIN[12:18])
    task = load(tmp_path, test_rows=2)
    assert not {row["text"] for row in TRAIN[:6] + TRAIN[12:18]} & {*task.train.texts, *task.dev.texts}


def test_labels_name_the_classes_in_their_order(tmp_path):
    table = [{"t": f"{number} of {label}", "y": label} for label in (0, 1, 2) for number in range(8)]
    write(tmp_path, "train", table)
    write(tmp_path, "test", [{**row, "t": "test " + row["t"]} for row in table])
    values = {"text": "t", "label": "y", "labels": {"2": "fine", "0": "awful", "1": "awful"}}
    task = load(tmp_path, **values)
    assert task.labels == ["fine", "awful"]
    for text, target in zip(task.train.texts, task.train.targets.tolist(), strict=True):
        assert target == (0 if text.endswith("2") else 1)


def test_a_hub_set_names_its_classes_itself(monkeypatch):
    import datasets

    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    data = datasets.DatasetDict(
        {
            name: datasets.Dataset.from_list([{**row, "label": int(row["label"] == "good")} for row in table], features)
            for name, table in (("train", TRAIN), ("test", TEST))
        }
    )
    monkeypatch.setattr(datasets, "load_dataset", {"some/set": data}.__getitem__)
    task = load_task(TaskSettings(hub="some/set", shots=2, dev_shots=2), 1)
    assert task.labels == ["bad", "good"]
    for text, target in zip(task.test.texts, task.test.targets.tolist(), strict=True):
        assert task.labels[target] in text


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch):
    import datasets

    def fail(_):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(UserError, match=r"task.hub = 'some/set'.*no route.*task.path") as caught:
        load_task(TaskSettings(hub="some/set"), 1)
    assert "\n" not in str(caught.value)


# Refused


def refusal(folder, **values):
    with pytest.raises(UserError) as caught:
        load(folder, **values)
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_a_missing_folder_is_refused(tmp_path):
    assert "task.path" in refusal(tmp_path / "nosuch")
    assert "task.path" in refusal("package:no_such_package/data")


def test_no_data_at_all_is_refused():
    with pytest.raises(UserError, match=r"task\.path"):
        load_task(TaskSettings(), 1)


@pytest.mark.parametrize("missing", ["train", "test"])
def test_a_missing_split_is_refused(folder, missing):
    (folder / f"{missing}.jsonl").unlink()
    assert missing in refusal(folder)


@pytest.mark.parametrize("name", ["train", "dev", "test"])
def test_an_empty_file_is_refused(folder, name):
    (folder / f"{name}.jsonl").write_text("")
    assert name in refusal(folder)


def test_two_files_for_one_split_are_refused(folder):
    write(folder, "train", TRAIN, "csv")
    line = refusal(folder)
    assert "train.csv" in line and "train.jsonl" in line


@pytest.mark.parametrize(("key", "column"), [("text", "body"), ("label", "class")])
def test_a_missing_column_names_those_that_are_there(folder, key, column):
    line = refusal(folder, **{key: column})
    assert f"'{column}'" in line and f"task.{key}" in line and "text, label" in line


def test_an_unknown_label_is_refused(folder):
    line = refusal(folder, labels={"good": "fine", "ugly": "awful"})
    assert "'bad'" in line and "task.labels" in line
    write(folder, "test", [*TEST, {"text": "odd", "label": "ugly"}])
    assert "'ugly'" in refusal(folder)


def test_one_class_is_refused(tmp_path):
    write(tmp_path, "train", rows("good", 12))
    write(tmp_path, "test", rows("good", 5, "test "))
    assert "fewer than two classes" in refusal(tmp_path)


def test_more_shots_than_rows_are_refused(folder):
    assert refusal(folder, shots=13).startswith("task.shots = 13, but only 12 rows of class 'bad'")
    assert refusal(folder, shots=10).startswith("task.dev_shots = 3, but only 2 rows of class 'bad'")


@pytest.mark.parametrize("text", ["", "  ", None, 7])
def test_a_row_without_a_text_is_refused(tmp_path, text):
    table = (
        [*TRAIN, {"text": text, "label": "good"}]
        if not isinstance(text, int)
        else [{**row, "text": 7} for row in TRAIN]
    )
    write(tmp_path, "train", table)
    write(tmp_path, "test", TEST)
    assert "holds no text" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("ending", "content"),
    [
        ("jsonl", b'{"text": "a"\n]'),
        ("jsonl", b"\n\n"),
        ("jsonl", b"1\n2\n"),
        ("jsonl", b"\xff\xfe\x00\x01"),
        ("json", b"[]"),
        ("csv", b""),
        ("csv", b"\xff\xfe\x00\x01"),
        ("csv", b'text,label\n"a'),
        ("parquet", b"no parquet"),
        ("parquet", b""),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, ending, content):
    write(tmp_path, "test", TEST)
    (tmp_path / f"train.{ending}").write_bytes(content)
    assert f"train.{ending}" in refusal(tmp_path)


# The data that is shipped, and the real sets


def test_the_demos_data_is_as_promised():
    task = load_task(TaskSettings(path=HELPDESK), 1)
    assert len(task.labels) == 6
    assert_apart(task)
    whole = [
        json.loads(line)
        for name in ("train", "dev", "test")
        for line in (ROOT / f"shared/recipes/helpdesk/{name}.jsonl").read_text().splitlines()
    ]
    assert len(whole) >= 360
    assert len({row["text"].casefold() for row in whole}) == len(whole)


@pytest.mark.parametrize("name", ["agnews", "sst2", "mr"])
def test_recipes_read_the_local_sets(name):
    data = ROOT.parent / "shared" / "data" / name
    if not data.is_dir():
        pytest.skip(f"needs ../shared/data/{name}, which is not there")
    from shared.layers import CommandLine

    parser = CommandLine("test", "Test.")
    settings = parser.resolve(parser.parse_args([name, "--task.path", str(data)]))
    task = load_task(settings.task, 1)
    assert_apart(task)
    assert len(task.train.texts) == 16 * len(task.labels)
    assert len(task.dev.texts) == settings.task.dev_shots * len(task.labels)
