"""Labelling new texts with a finished run: in Python, and as a program from arguments, a file or standard input."""

import csv
import io
import json
import shutil

import pytest
import torch
from conftest import follow_readme, run_process, run_program
from safetensors.torch import load_file, save_file

import trainer
from shared.errors import UserError
from trainer.predict import main
from trainer.runs.directory import read_settings
from trainer.tasks import load_task
from trainer.tasks.examples import Example

TEXTS = ["Where is my parcel? It should have been here on Monday.", "You charged my card twice!", "caf\u00e9"]


@pytest.fixture(scope="module")
def classifier(finished):
    return trainer.load(str(finished[0]))


def test_it_labels_as_the_run_itself_does(finished, classifier, context):
    vectors = load_file(finished[0] / "best" / "best.safetensors")["class_embeddings"]
    rows = context.backbone.prepare([Example(((text,),)) for text in TEXTS], "texts", lambda: None)
    shares = context.backbone.classify(vectors[None], rows)[0].softmax(-1)
    for prediction, row in zip(classifier.predict(TEXTS), shares, strict=True):
        expected = dict(zip(context.task.labels, row.tolist(), strict=True))
        assert prediction.probabilities == pytest.approx(expected, abs=1e-5)
        assert prediction.label == max(expected, key=expected.__getitem__)
        ranked = list(prediction.probabilities.values())
        assert ranked == sorted(ranked, reverse=True) and sum(ranked) == pytest.approx(1.0, abs=1e-5)


def test_its_accuracy_is_the_one_in_the_summary(finished, classifier):
    settings = read_settings(finished[0])
    test = load_task(settings.task, settings.seed).test
    found = [classifier.labels.index(prediction.label) for prediction in classifier.label(test.examples)]
    accuracy = sum(a == b for a, b in zip(found, test.targets.tolist(), strict=True)) / len(found)
    assert accuracy == pytest.approx(json.loads((finished[0] / "summary.json").read_text())["test"]["accuracy"])


def test_plain_cases_are_right(classifier):
    assert [prediction.label for prediction in classifier.predict(TEXTS[:2])] == ["delivery", "billing"]
    assert classifier.predict([]) == []


def test_the_lines_next_to_the_result_label_as_it_does_without_tandem(finished, classifier):
    said = follow_readme(finished[0] / "best", '["a text"]', repr(TEXTS))
    assert said == str([prediction.label for prediction in classifier.predict(TEXTS)])


@pytest.fixture
def quick(finished, classifier, monkeypatch):
    """The program, with the run loaded once."""
    monkeypatch.setattr("trainer.result.classifier.Classifier.load", lambda *_: classifier)

    def label(*arguments, stdin=""):
        return run_program(main, finished[0], *arguments, stdin=stdin)

    return label


def test_the_program_labels_texts_in_their_order(quick, classifier):
    ended = quick(*TEXTS)
    assert ended.status == 0 and ended.err == ""
    for line, text, prediction in zip(ended.out.splitlines(), TEXTS, classifier.predict(TEXTS), strict=True):
        assert line.startswith(f"{prediction.label}  {prediction.probabilities[prediction.label]:.2f}")
        assert line.endswith(text)


def test_a_file_and_standard_input_give_the_same(quick, tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("\n".join([TEXTS[0], "", "  ", *TEXTS[1:]]), encoding="utf-8")
    assert quick("--file", path).out == quick(*TEXTS).out == quick(stdin=path.read_text(encoding="utf-8")).out


def test_json_holds_all_probabilities(quick, classifier):
    rows = [json.loads(line) for line in quick("--json", *TEXTS).out.splitlines()]
    for row, text, prediction in zip(rows, TEXTS, classifier.predict(TEXTS), strict=True):
        assert row == {"example": text, "label": prediction.label, "probabilities": prediction.probabilities}


def json_of(ended):
    assert ended.status == 0, ended
    return [json.loads(line) for line in ended.out.splitlines()]


ODD = ["NA", "01", "2024-01-01", "a\u2028b", "a\x85b", "a\x0cb", "a\tb", 'say "so", twice', "two\nlines"]
"""Texts that a careless reader changes or splits."""


@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "CSV"])
def test_a_file_of_rows_is_read_as_training_reads_it(quick, tmp_path, suffix, bom):
    path = tmp_path / f"texts.{suffix}"
    if suffix == "jsonl":
        text = "".join(json.dumps({"text": text, "n": 7}, ensure_ascii=False) + "\r\n" for text in ODD)
    else:
        table = io.StringIO(newline="")
        writer = csv.writer(table, delimiter="\t" if suffix == "tsv" else ",")
        writer.writerows([["n", "text"], *([7, text] for text in ODD)])
        text = table.getvalue()
    path.write_text(bom + text, encoding="utf-8", newline="")
    assert [row["example"] for row in json_of(quick("--json", "--file", path))] == ODD


@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_lines_of_text_end_at_line_feeds_alone(quick, tmp_path, bom):
    lines = [text for text in ODD if "\n" not in text]
    path = tmp_path / "texts.txt"
    path.write_text(bom + "\r\n".join(lines), encoding="utf-8", newline="")
    ended = quick("--json", "--file", path)
    assert [row["example"] for row in json_of(ended)] == lines
    assert quick("--json", stdin=bom + "\r\n".join(lines)).out == ended.out


def test_a_file_of_rows_without_the_column_is_refused(quick, tmp_path):
    path = tmp_path / "texts.csv"
    path.write_text("body,label\na,b\n")
    line = quick("--file", path).refused()
    assert "'text'" in line and "task.text" in line


HOSTILE = "red \x1b[31malert\x1b[0m \x9b2J \u202eevil\u202c \x07\x7f"


def test_what_a_text_holds_never_steers_a_terminal(quick, tmp_path):
    ended = quick(HOSTILE)
    assert ended.status == 0 and "alert" in ended.out
    assert ended.out.removesuffix("\n").isprintable()
    (row,) = json_of(quick("--json", HOSTILE))
    assert row["example"] == HOSTILE
    assert quick("--json", HOSTILE).out.removesuffix("\n").isprintable()
    assert quick("--file", tmp_path / "\x1b[2J\u202e").refused().isprintable()


def test_a_device_that_is_not_there_is_refused(finished):
    for device in ("cuda:99", "abacus"):
        line = run_program(main, finished[0], "--device", device, "a text").refused()
        assert device in line
    assert run_program(main, finished[0], "--device", "cpu", "a text").status == 0


@pytest.mark.parametrize("stdin", ["", "\n \n\t\n"])
def test_no_text_is_refused(quick, stdin):
    assert "nothing to label" in quick(stdin=stdin).refused()


def test_texts_and_a_file_at_once_are_refused(quick, tmp_path):
    assert "--file" in quick("a text", "--file", tmp_path / "x").refused()


def test_a_file_that_cannot_be_read_is_refused(quick, tmp_path):
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    for name in ("nosuch", "bytes", "."):
        assert str(tmp_path) in quick("--file", tmp_path / name).refused()


def test_text_that_is_not_unicode_is_refused(quick):
    assert "EXAMPLE" in quick("caf\udce9").refused()  # how Python hands over a byte that is not UTF-8


def test_wrong_use_is_one_line(quick):
    assert "--jsn" in quick("--jsn", "a text").refused()
    assert "RUN" in run_program(main).refused()


def test_no_such_run_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "no run 'nosuch'" in run_program(main, "nosuch", "a text").refused()
    assert "no run 'latest'" in run_program(main, "latest", "a text").refused()


def test_an_unfinished_run_is_refused(finished, tmp_path):
    shutil.copy(finished[0] / "config.json", tmp_path)
    assert "no result yet" in run_program(main, tmp_path, "a text").refused()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda best, _: best["labels"].pop(), "do not fit 2 labels"),
        (lambda best, _: best["labels"].append("more"), "do not fit 4 labels"),
        (lambda _, tensors: tensors.update(class_embeddings=tensors["class_embeddings"] * torch.nan), "do not fit"),
        (lambda _, tensors: tensors.update({"prompt.0": tensors["prompt.0"][:, :7].contiguous()}), "do not fit"),
        (lambda best, _: best.update(model="of another"), "its model is not the one that it was tuned for"),
    ],
)
def test_a_result_that_does_not_fit_its_model_is_refused(finished, tmp_path, change, said):
    folder = copied(finished[0], tmp_path)
    best, tensors = json.loads((folder / "best/best.json").read_text()), load_file(folder / "best/best.safetensors")
    change(best, tensors)
    (folder / "best/best.json").write_text(json.dumps(best))
    save_file(tensors, folder / "best/best.safetensors")
    assert said in run_program(main, folder, "a text").refused()


def copied(folder, root):
    return shutil.copytree(folder, root / "copy")


@pytest.mark.parametrize("name", ["best.json", "best.safetensors"])
@pytest.mark.parametrize("content", [b"", b"{}", None])
def test_a_damaged_result_is_refused(finished, tmp_path, name, content):
    copy = tmp_path / "run"
    shutil.copytree(finished[0], copy)
    if content is None and name == "best.safetensors":
        (copy / "best" / name).unlink()
    else:
        (copy / "best" / name).write_bytes(content or b'{"labels": ["a"], "backbone": {"family": "abacus"}}')
    with pytest.raises(UserError) as caught:
        trainer.load(str(copy))
    assert str(copy / "best") in str(caught.value)
    assert run_program(main, copy, "a text").refused()


def test_as_a_process(finished):
    folder, _ = finished
    ended = run_process("trainer.predict", "latest", "--json", cwd=link(folder), stdin="You charged my card twice!\n")
    assert ended.status == 0 and ended.err == ""
    assert json.loads(ended.out)["label"] == "billing"


def link(folder):
    """A working folder whose runs/ holds the run."""
    place = folder.parent / "work"
    place.mkdir(exist_ok=True)
    if not (place / "runs").exists():
        (place / "runs").symlink_to(folder.parent)
    return place
