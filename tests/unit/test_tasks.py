"""Tasks: formats, splits that share no text, few shots by seed, labels, and what is refused."""

import json
from collections import Counter

import pandas as pd
import pytest
from conftest import HELPDESK, ROOT

from shared.errors import UserError
from shared.settings import TaskSettings
from trainer.search.opening import digest_labels
from trainer.tasks import load_task


def rows(label, count, prefix=""):
    return [{"text": f"{prefix}{label} text {number}", "label": label} for number in range(count)]


TRAIN = rows("good", 12) + rows("bad", 12)
TEST = rows("good", 5, "test ") + rows("bad", 5, "test ")


def write(folder, name, table, ending="jsonl"):
    path = folder / f"{name}.{ending}"
    match ending:
        case "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in table))
        case "csv":
            pd.DataFrame(table).to_csv(path, index=False)
        case "parquet":
            pd.DataFrame(table).to_parquet(path)
    return folder


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, "train", TRAIN)
    return write(tmp_path, "test", TEST)


def load(folder, seed=1, **values):
    return load_task(TaskSettings(**{"path": str(folder), "shots": 3, "dev_shots": 3, **values}), seed)


def texts(split):
    return [example.columns["text"] for example in split.examples]


def all_texts(task):
    return texts(task.train), texts(task.dev), texts(task.test)


def assert_apart(task):
    train, dev, test = map(set, all_texts(task))
    assert len(train) == len(task.train.examples) and len(dev) == len(task.dev.examples)
    assert not train & dev and not train & test and not dev & test


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_formats_hold_the_same_task(folder, tmp_path, ending):
    other = tmp_path / "other"
    other.mkdir()
    write(other, "train", TRAIN, ending)
    write(other, "test", TEST, ending)
    task, same = load(folder), load(other)
    assert all_texts(task) == all_texts(same)
    assert task.labels == same.labels == ["bad", "good"]
    assert task.train.targets.tolist() == same.train.targets.tolist()


def test_texts_keep_their_labels(folder):
    task = load(folder)
    for split in (task.train, task.dev, task.test):
        for text, target in zip(texts(split), split.targets.tolist(), strict=True):
            assert task.labels[target] in text
    assert Counter(task.train.targets.tolist()) == {0: 3, 1: 3}
    assert Counter(task.dev.targets.tolist()) == {0: 3, 1: 3}
    assert len(task.test.examples) == 10


@pytest.mark.parametrize("name", ["dev", "validation"])
def test_a_development_file_is_used_where_there_is_one(folder, name):
    write(folder, name, rows("good", 4, "dev ") + rows("bad", 4, "dev "))
    task = load(folder)
    assert all(text.startswith("dev ") for text in texts(task.dev))
    assert_apart(task)


def test_without_a_development_file_it_is_cut_from_train(folder):
    task = load(folder)
    assert set(texts(task.dev)) <= {row["text"] for row in TRAIN}
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
        assert len(task.train.examples) == len(task.dev.examples) == 8


def test_repeated_rows_do_not_count_as_shots(tmp_path):
    write(tmp_path, "train", (rows("good", 5) + rows("bad", 5)) * 4)
    write(tmp_path, "test", TEST)
    assert_apart(load(tmp_path, shots=3, dev_shots=2))
    with pytest.raises(UserError, match="dev_shots = 3, but only 2 rows of class 'bad'"):
        load(tmp_path, shots=3, dev_shots=3)


def test_the_seed_draws_the_shots(folder):
    assert all_texts(load(folder, 1)) == all_texts(load(folder, 1))
    drawn = {tuple(sorted(texts(load(folder, seed).train))) for seed in range(5)}
    assert len(drawn) == 5
    assert len({tuple(sorted(texts(load(folder, seed).dev))) for seed in range(5)}) == 5
    assert len({tuple(texts(load(folder, seed).test)) for seed in range(5)}) == 1


def test_what_a_seed_draws_stays_the_same(folder):
    task = load(folder, 1, test_rows=3)
    assert texts(task.train) == [f"bad text {n}" for n in (1, 6, 8)] + [f"good text {n}" for n in (2, 7, 6)]
    assert texts(task.dev) == [f"bad text {n}" for n in (5, 11, 9)] + [f"good text {n}" for n in (4, 11, 1)]
    assert texts(task.test) == ["test good text 4", "test good text 1", "test bad text 2"]


def test_test_rows_caps_test_alone_and_the_same_for_every_seed(folder):
    few, others = load(folder, 1, test_rows=4), load(folder, 2, test_rows=4)
    assert texts(few.test) == texts(others.test) and len(few.test.examples) == 4
    assert set(texts(few.test)) <= {row["text"] for row in TEST}
    assert len(load(folder, test_rows=1000).test.examples) == 10


def test_a_capped_test_still_keeps_all_test_texts_out_of_training(tmp_path):
    write(tmp_path, "train", TRAIN)
    write(tmp_path, "test", TRAIN[:6] + TRAIN[12:18])
    task = load(tmp_path, test_rows=2)
    assert not {row["text"] for row in TRAIN[:6] + TRAIN[12:18]} & {*texts(task.train), *texts(task.dev)}


def test_labels_name_the_classes_in_their_order(tmp_path):
    table = [{"t": f"{number} of {label}", "y": label} for label in (0, 1, 2) for number in range(8)]
    write(tmp_path, "train", table)
    write(tmp_path, "test", [{**row, "t": "test " + row["t"]} for row in table])
    values = {"text": "t", "label": "y", "labels": {"2": "fine", "0": "awful", "1": "awful"}}
    task = load(tmp_path, **values)
    assert task.labels == ["fine", "awful"]
    for text, target in zip(texts(task.train), task.train.targets.tolist(), strict=True):
        assert target == (0 if text.endswith("2") else 1)


def as_hub_set(folder, tables, columns):
    """A data set as the hub keeps it: the same call reads it from a folder."""
    import datasets

    for name, table in tables.items():
        datasets.Dataset.from_list(table, datasets.Features(columns)).to_parquet(folder / f"{name}.parquet")
    return str(folder)


@pytest.fixture
def hub(tmp_path):
    from datasets import ClassLabel, Value

    columns = {"text": Value("string"), "label": ClassLabel(names=["bad", "good"])}
    tables = {
        name: [{**row, "label": int(row["label"] == "good")} for row in table]
        for name, table in (("train", TRAIN), ("validation", rows("good", 4, "dev ") + rows("bad", 4, "dev ")))
    }
    tables["test"] = [{**row, "label": -1} for row in TEST]
    return as_hub_set(tmp_path, tables, columns)


def load_hub(hub, **values):
    return load_task(TaskSettings(**{"hub": hub, "shots": 2, "dev_shots": 2, "report": "validation", **values}), 1)


def test_a_hub_set_names_its_classes_itself(hub):
    task = load_hub(hub)
    assert task.labels == ["bad", "good"]
    for text, target in zip(texts(task.test), task.test.targets.tolist(), strict=True):
        assert task.labels[target] in text


def test_a_split_with_hidden_labels_counts_as_not_there(hub):
    assert all(text.startswith("dev ") for text in texts(load_hub(hub).test))
    with pytest.raises(UserError, match=r"no test rows with labels.*task\.report"):
        load_hub(hub, report="test")


def test_a_hub_has_several_sets_under_one_name(tmp_path):
    for config in ("one", "two"):
        (tmp_path / config).mkdir()
        for name, table in (("train", TRAIN), ("test", TEST)):
            write(tmp_path / config, name, [{**row, "text": f"{config} {row['text']}"} for row in table])
    configs = [
        f"- config_name: {config}\n  data_files:\n" + "".join(
            f"  - split: {name}\n    path: {config}/{name}.jsonl\n" for name in ("train", "test"))
        for config in ("one", "two")
    ]  # fmt: skip
    (tmp_path / "README.md").write_text("---\nconfigs:\n" + "".join(configs) + "---\n")
    task = load_hub(str(tmp_path), config="two", report="test")
    assert all(text.startswith("two ") for split in all_texts(task) for text in split)
    with pytest.raises(UserError, match="'three'"):
        load_hub(str(tmp_path), config="three")


def test_a_hub_set_that_cannot_be_fetched_is_one_line():
    with pytest.raises(UserError, match=r"task.hub = 'some/set' cannot be fetched.*task.path") as caught:
        load_task(TaskSettings(hub="some/set"), 1)
    assert "\n" not in str(caught.value)


# How much is drawn, and from where


def test_all_takes_every_row_that_development_leaves(folder):
    task = load(folder, shots="all")
    assert (len(task.train.examples), len(task.dev.examples)) == (18, 6)
    assert_apart(task)


def test_a_share_of_training_is_cut_for_development_by_seed(folder):
    write(folder, "dev", rows("good", 4, "dev ") + rows("bad", 4, "dev "))
    task = load(folder, shots="all", dev_share=0.25)
    assert (len(task.train.examples), len(task.dev.examples)) == (18, 6)
    assert not any(text.startswith("dev ") for text in texts(task.dev))
    assert all_texts(task) == all_texts(load(folder, shots="all", dev_share=0.25))
    assert set(texts(task.dev)) != set(texts(load(folder, 2, shots="all", dev_share=0.25).dev))
    assert_apart(task)
    assert len(load(folder, shots=5, dev_share=0.25).train.examples) == 10


def test_the_reported_validation_rows_choose_nothing(tmp_path):
    write(tmp_path, "train", TRAIN + rows("good", 1, "val "))
    write(tmp_path, "val", rows("good", 4, "val ") + rows("bad", 4, "val "))
    task = load(tmp_path, report="validation", shots="all")
    assert len(task.test.examples) == 8 and all(text.startswith("val ") for text in texts(task.test))
    assert len(task.train.examples) == 18
    assert_apart(task)


def test_a_third_is_reported_where_one_file_is_all_there_is(tmp_path):
    write(tmp_path, "validation", TRAIN)
    task, other = (load(tmp_path, seed, report="third", shots="all", dev_shots=2) for seed in (1, 2))
    assert [len(part) for part in all_texts(task)] == [12, 4, 8]
    assert texts(task.test) == texts(other.test) and texts(task.dev) != texts(other.dev)
    assert_apart(task)
    assert task.labels == ["bad", "good"]


def test_two_columns_stand_side_by_side(tmp_path):
    for name, table in (("train", TRAIN), ("test", TEST)):
        write(tmp_path, name, [{"a": row["text"], "b": "aside", "n": 7, "label": row["label"]} for row in table])
    settings = TaskSettings(path=str(tmp_path), text="a", text2="b", shots=3, dev_shots=3)
    example = load_task(settings, 1).train.examples[0]
    text = example.columns["a"]
    assert example.choices == ((text, "aside"),)
    assert example.columns == {"a": text, "b": "aside", "text": text, "text2": "aside"}
    assert load_task(settings, 1, "{n} {text}").train.examples[0].columns["n"] == "7"


# Refused


def refusal(folder, **values):
    with pytest.raises(UserError) as caught:
        load(folder, **values)
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_a_missing_folder_is_refused(tmp_path):
    assert "task.path" in refusal(tmp_path / "nosuch")
    names = [
        "package:no_such_package/data",
        "package:",
        "package:..",
        "package:no.such/a",
        "x" * 300,
        "~nobody_here/x",
    ]
    for name in names:
        assert "task.path" in refusal(name), name


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


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_a_share_that_leaves_nothing_is_refused(folder, share):
    assert "task.dev_share" in refusal(folder, dev_share=share, shots="all")


def test_a_row_without_a_label_is_refused(folder):
    write(folder, "test", [*TEST, {"text": "odd", "label": None}])
    assert "test row 11 has no label" in refusal(folder)


@pytest.mark.parametrize("text", ["", "  ", None, ["a"], {"a": "b"}])
def test_a_row_without_a_text_is_refused(tmp_path, text):
    write(tmp_path, "train", [*TRAIN, {"text": text, "label": "good"}])
    write(tmp_path, "test", TEST)
    line = refusal(tmp_path)
    assert f"{tmp_path}/train.jsonl: train row 25: column 'text' holds no text" in line


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


# Labels and texts are those in the file


@pytest.mark.parametrize("ending", ["jsonl", "csv", "tsv", "parquet"])
@pytest.mark.parametrize("labels", [["NA", "None", "null"], ["01", "1", "2024-01-01"], ["-1", "0", "1.0"]])
def test_labels_keep_their_spelling(tmp_path, ending, labels):
    table = [{"text": f"{number}{at}", "label": label} for at, label in enumerate(labels) for number in range(8)]
    for name, prefix in (("train", "1"), ("test", "2")):
        rows = [{**row, "text": prefix + row["text"]} for row in table]
        if ending == "tsv":
            pd.DataFrame(rows).to_csv(tmp_path / f"{name}.tsv", index=False, sep="\t")
        else:
            write(tmp_path, name, rows, ending)
    task = load(tmp_path)
    assert task.labels == sorted(labels)
    assert all(text.isdigit() for text in texts(task.train)), "digits are text"


@pytest.mark.parametrize("name", ["d2*", "tickets [v1]", "what?", "50%", "a#b", "a b", "caf\u00e9", "{x}", "a\u2028b"])
def test_a_path_is_never_a_pattern(tmp_path, name):
    for sibling, prefix in (("d2", "sibling "), ("d2x", "sibling "), ("tickets v", "sibling "), (name, "own ")):
        folder = tmp_path / sibling
        folder.mkdir(exist_ok=True)
        write(folder, "train", rows("good", 12, prefix) + rows("bad", 12, prefix))
        write(folder, "test", rows("good", 5, f"{prefix}test ") + rows("bad", 5, f"{prefix}test "))
    task = load(tmp_path / name)
    assert all(text.startswith("own ") for split in all_texts(task) for text in split)
    assert len(task.test.examples) == 10


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("good ", "test row 11: the label 'good ' begins or ends with a blank"),
        (" good", "test row 11: the label ' good' begins or ends with a blank"),
        (["good"], "test row 11: the label is a list"),
        ({"a": "good"}, "test row 11: the label is an object"),
        (None, "test row 11 has no label"),
        ("", "test row 11 has no label"),
        ("caf\udce9", "test.jsonl line 11: column 'label' holds text that is not Unicode"),
    ],
)
def test_a_label_that_is_not_one_is_named_with_file_and_row(folder, label, said):
    write(folder, "test", [*TEST, {"text": "odd", "label": label}])
    line = refusal(folder)
    assert said in line and f"{folder}/test.jsonl" in line


def test_a_label_with_a_blank_may_be_named(folder):
    write(folder, "test", [*TEST, {"text": "odd", "label": "good "}])
    task = load(folder, labels={"good": "fine", "good ": "fine", "bad": "awful"})
    assert task.labels == ["fine", "awful"] and len(task.test.examples) == 11


@pytest.mark.parametrize("other", ["Good", "GOOD", "\uff47ood"])
def test_labels_that_differ_only_in_case_are_refused(tmp_path, other):
    write(tmp_path, "train", TRAIN + rows(other, 12))
    write(tmp_path, "test", TEST)
    line = refusal(tmp_path)
    assert "'good'" in line and f"'{other}'" in line and "case or blanks" in line
    assert "case or blanks" in refusal(tmp_path, labels={"good": "fine", other: "Fine ", "bad": "awful"})
    assert load(tmp_path, labels={"good": "fine", other: "fine", "bad": "awful"}).labels == ["fine", "awful"]


def test_a_label_longer_than_a_message_takes_is_refused_at_the_start(tmp_path):
    write(tmp_path, "train", TRAIN + rows("x" * 201, 12))
    write(tmp_path, "test", TEST)
    line = refusal(tmp_path)
    assert "201 characters" in line and "task.labels" in line and len(line) < 500
    assert len(load(tmp_path, labels={"good": "good", "bad": "bad", "x" * 201: "long"}).labels) == 3


def test_more_classes_than_a_digest_takes_are_read(tmp_path):
    from bus.codec import decode, encode
    from bus.messages import Digest, Work
    from shared.settings import BusSettings

    table = [{"text": f"{number} of {label}", "label": f"class {label}"} for label in range(1200) for number in (1, 2)]
    write(tmp_path, "train", table)
    write(tmp_path, "test", [{"text": "test", "label": "class 7"}])
    task = load(tmp_path, shots=1, dev_shots=1)
    assert len(task.labels) == 1200
    few = ["a", "b"]
    assert digest_labels(few) == few
    for labels in (task.labels, ["\U0001f600" * 200] * 5000, task.labels[:1000]):
        cut = digest_labels(labels)
        assert set(cut) <= set(labels) and (cut[0], cut[-1]) == (labels[0], labels[-1])
        digest = Digest(
            run="a", sequence=1, step=0, budget=1, task="a", labels=cut, num_tokens=1, num_candidates=1,
            trajectory=[], substitutions=[], slope=None, best=[], outcomes=[],
        )  # fmt: skip
        most = BusSettings().max_frame_bytes
        assert decode(encode(Work(lease="a", seconds=1, digest=digest), most), most).digest == digest


def test_a_local_folder_named_as_the_hub_is_never_a_pattern(tmp_path):
    for name in ("d2*", "d2x"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, "train", TRAIN)
    with pytest.raises(UserError, match=r"task\.hub"):
        load_task(TaskSettings(hub=str(tmp_path / "d2*")), 1)


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
    from shared.config import CommandLine

    parser = CommandLine("test", "Test.")
    settings = parser.resolve(parser.parse_args([name, "--task.path", str(data)]))
    task = load_task(settings.task, 1)
    assert_apart(task)
    assert len(task.train.examples) == 16 * len(task.labels)
    assert len(task.dev.examples) == settings.task.dev_shots * len(task.labels)
