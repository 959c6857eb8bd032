"""SuperGLUE and GLUE: what each form makes of real rows, from the official files and from the hub's columns."""

import json
from collections import Counter
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from shared.errors import UserError
from shared.settings import TaskSettings
from trainer.tasks import load_task

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def real(name):
    """A folder of real rows, by COLLECTION/TASK."""
    folder = DATA / name
    if not folder.is_dir():
        pytest.skip(f"needs ../shared/data/{name}, which is not there")
    return folder


def load(folder, format, seed=1, **values):
    """Every row of a folder: the validation rows as test, the training rows as training and development."""
    defaults = {"path": str(folder), "format": format, "report": "validation", "shots": "all", "dev_share": 0.25}
    return load_task(TaskSettings(**{**defaults, **values}), seed, "{idx}")


def load_hub(folder, format, **values):
    return load(None, format, path=None, hub=str(folder), **values)


def pairs(*splits):
    return [pair for split in splits for pair in zip(split.examples, split.targets.tolist(), strict=True)]


def find(task, *, split=None, **columns):
    """The one example whose columns are these, and the words of its class."""
    splits = [split] if split else [task.train, task.dev, task.test]
    hits = [pair for pair in pairs(*splits) if columns.items() <= dict(pair[0].columns).items()]
    assert len(hits) == 1
    return hits[0][0], task.labels[hits[0][1]]


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(folder, **splits):
    for name, rows in splits.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def write_hub(folder, features, **splits):
    """A data set as the hub keeps it."""
    for name, rows in splits.items():
        Dataset.from_list(rows, Features(features)).to_parquet(folder / f"{name}.parquet")
    return folder


# What a real row becomes


def test_boolq_asks_before_the_passage():
    task = load(real("superglue/BoolQ"), "boolq", report="third")
    example, label = find(task, question="does ethanol take more energy make that produces")
    assert len(example.choices) == 1 and example.choices[0][0] == example.columns["question"]
    assert example.choices[0][1].startswith("Ethanol fuel -- All biomass goes through at least some of these steps")
    assert label == "no" and task.labels == ["no", "yes"]
    assert [len(split.examples) for split in (task.train, task.dev, task.test)] == [1635, 545, 1090]


def test_cb_has_three_classes():
    task = load(real("superglue/CB"), "cb")
    example, label = find(task, hypothesis="Valence was helping")
    premise = "Valence the void-brain, Valence the virtuous valet. Why couldn't the figger choose his own portion of "
    premise += "titanic anatomy to shaft? Did he think he was helping?"
    assert example.choices == ((premise, "Valence was helping"),)
    assert label == "contradiction" and task.labels == ["entailment", "contradiction", "neutral"]
    assert (example.columns["text"], example.columns["text2"]) == example.choices[0]
    assert "label" not in example.columns
    assert Counter(task.test.targets.tolist()) == {0: 23, 1: 28, 2: 5}


def test_rte_is_a_premise_and_a_hypothesis():
    task = load(real("superglue/RTE"), "rte")
    example, label = find(task, hypothesis="Weapons of Mass Destruction Found in Iraq.")
    assert example.choices == ((example.columns["premise"], example.columns["hypothesis"]),)
    assert example.columns["premise"] == "No Weapons of Mass Destruction Found in Iraq Yet."
    assert label == "not entailment"
    assert len(task.test.examples) == 277


def test_copa_scores_choices_of_its_own():
    task = load(real("superglue/COPA"), "copa")
    effect, label = find(task, premise="The man turned on the faucet.")
    assert effect.choices == (
        ("The man turned on the faucet so", "The toilet filled with water."),
        ("The man turned on the faucet so", "Water flowed from the spout."),
    )
    assert label == "second choice"
    cause, label = find(task, premise="My body cast a shadow over the grass.")
    assert cause.choices[0] == ("My body cast a shadow over the grass because", "The sun was rising.")
    assert label == "first choice"
    assert len(task.test.examples) == 100 and len(pairs(task.train, task.dev)) == 400


def test_wic_marks_the_word_by_its_offsets():
    task = load(real("superglue/WiC"), "wic")
    example, label = find(task, sentence2="They earned their stripes in Kuwait.", word="stripe")
    assert example.choices == (
        (
            "stripe: Businessmen of every *stripe* joined in opposition to the proposal.",
            "stripe: They earned their *stripes* in Kuwait.",
        ),
    )
    assert label == "different meaning"
    assert len(task.test.examples) == 638


def test_wsc_marks_both_spans_and_says_the_reading():
    task = load(real("superglue/WSC"), "wsc")
    lies, label = find(task, span1_text="Mark", span2_text="He", idx="0")
    marked = "*Mark* told Pete many lies about himself, which Pete included in his book. "
    assert lies.choices == ((marked + "#He# should have been more skeptical.", "He refers to Mark."),)
    assert label == "no"
    # of two spans that read the same the one at the index is meant
    son, label = find(task, split=task.test, idx="27")
    assert son.choices[0][0].startswith("Mr. Moncrieff visited Chester 's luxurious New York apartment")
    assert "to his son *Edward* . The result" in son.choices[0][0]
    assert "he no longer requires #his# financial support" in son.choices[0][0]
    assert label == "no"
    assert len(task.test.examples) == 104 and len(pairs(task.train, task.dev)) == 554 - 2  # two repeat others


def test_slips_of_wsc_are_read_as_they_are_meant():
    task = load(real("superglue/WSC"), "wsc")
    other, _ = find(task, span1_text="safe", idx="42")  # the index is that of `use`
    assert other.choices[0][0].endswith("might want to use #it# , but really for now, what more could they wish for?")
    broken = [example for example, _ in pairs(task.train, task.dev) if "\n" in example.columns["span1_text"]]
    assert broken and all("*willow-towered Canopy Huntertropic wrestles*" in one.choices[0][0] for one in broken)
    council = [example for example, _ in pairs(task.train, task.dev) if "city councilmen" in example.choices[0][0]]
    assert any("*the demonstrators*" in one.choices[0][0] for one in council)  # named as `The demonstrators`


def test_multirc_judges_each_answer_of_a_question():
    task = load(real("superglue/MultiRC"), "multirc", report="third")
    asked = "What do you apply to an object to make it move or stop?"
    answers = [pair for pair in pairs(task.train, task.dev, task.test) if pair[0].columns["question"] == asked]
    assert {example.columns["answer"]: target for example, target in answers} == {
        "Strength": 0,
        "Nothing, it will stop on its own": 0,
        "Apply force on the ball": 1,
        "A force": 1,
        "Pressure": 0,
    }
    assert len({example.group for example, _ in answers}) == 1
    force = next(example for example, _ in answers if example.columns["answer"] == "A force")
    assert force.choices[0][0] == f"{asked} A force"
    assert force.choices[0][1].startswith("What causes a change in motion? The application of a force.")


def test_record_fills_the_gap_with_each_entity():
    task = load(real("fewglue_32dev/ReCoRD"), "record")
    hits = [
        pair for pair in pairs(task.train, task.dev) if "Speaking after the game, Mourinho" in pair[0].choices[0][0]
    ]
    assert len(hits) == len({example.answer for example, _ in hits}) == 19
    assert [example.answer for example, target in hits if target] == ["Olimpija Ljubljana"]
    example = next(example for example, target in hits if target)
    said = "Speaking after the game, Mourinho said: 'The important thing is to give competition to the players, the "
    assert example.choices[0][0] == said + "best thing was that Olimpija Ljubljana made it difficult."
    assert example.choices[0][1].startswith("By Hamish Mackay Goals from Diego Costa")
    assert example.gold == ("Olimpija Ljubljana",)
    assert len({example.group for example, _ in hits}) == 1
    assert len({example.group for example in task.test.examples}) == 32


FEW = ["boolq BoolQ", "cb CB", "copa COPA", "multirc MultiRC", "record ReCoRD", "rte RTE", "wic WiC"]


@pytest.mark.parametrize(("format", "name"), [few.split() for few in FEW])
def test_splits_share_neither_examples_nor_questions(format, name):
    for seed in (1, 2):
        task = load(real(f"fewglue_32dev/{name}"), format, seed)
        units = [
            {example.group or example.key for example in split.examples} for split in (task.train, task.dev, task.test)
        ]
        assert not units[0] & units[1] and not units[0] & units[2] and not units[1] & units[2]
        assert abs(len(units[1]) - 8) <= 1 and len(units[0]) + len(units[1]) <= 32


def test_a_capped_report_keeps_questions_whole():
    folder = real("superglue/MultiRC")
    whole, capped = (load(folder, "multirc", report="third", test_rows=most).test for most in (None, 100))
    answers = Counter(example.group for example in whole.examples)
    assert 90 < len(capped.examples) <= 100
    assert all(answers[group] == count for group, count in Counter(one.group for one in capped.examples).items())
    with pytest.raises(UserError, match=r"task\.test_rows = 1"):
        load(folder, "multirc", report="third", test_rows=1)


def test_training_rows_of_one_class_are_refused():
    with pytest.raises(UserError, match="fewer than two classes"):
        load(real("fewglue_32dev/WSC"), "wsc")  # they are all true


# The hub's columns say the same

TRUTH = ClassLabel(names=["False", "True"])
STRING, INT = Value("string"), Value("int32")


def flatten_multirc(rows):
    for row in rows:
        for question in row["passage"]["questions"]:
            for answer in question["answers"]:
                yield {
                    "paragraph": row["passage"]["text"],
                    "question": question["question"],
                    "answer": answer["text"],
                    "idx": {"paragraph": row["idx"], "question": question["idx"], "answer": answer["idx"]},
                    "label": answer["label"],
                }


def flatten_record(rows):
    for row in rows:
        text = row["passage"]["text"]
        for asked in row["qas"]:
            yield {
                "passage": text,
                "query": asked["query"],
                "entities": sorted({text[span["start"] : span["end"] + 1] for span in row["passage"]["entities"]}),
                "answers": sorted({answer["text"] for answer in asked["answers"]}),
                "idx": {"passage": row["idx"], "query": asked["idx"]},
            }


def flatten_wsc(rows):
    for row in rows:
        yield {"text": row["text"], "idx": row["idx"], "label": int(row["label"]), **row["target"]}


def as_truth(rows):
    return [{**row, "label": int(row["label"])} for row in rows]


def numbered(names):
    return lambda rows: [{**row, "label": names.index(row["label"])} for row in rows]


CB, RTE = ["entailment", "contradiction", "neutral"], ["entailment", "not_entailment"]
HUB = {
    "boolq": ("fewglue_32dev/BoolQ", as_truth, {"question": STRING, "passage": STRING, "idx": INT, "label": TRUTH}),
    "cb": (
        "superglue/CB",
        numbered(CB),
        {"premise": STRING, "hypothesis": STRING, "idx": INT, "label": ClassLabel(names=CB)},
    ),
    "copa": (
        "superglue/COPA",
        list,
        {
            **dict.fromkeys(["premise", "choice1", "choice2", "question"], STRING),
            "idx": INT,
            "label": ClassLabel(names=["choice1", "choice2"]),
        },
    ),
    "multirc": (
        "fewglue_32dev/MultiRC",
        flatten_multirc,
        {
            **dict.fromkeys(["paragraph", "question", "answer"], STRING),
            "idx": {"paragraph": INT, "question": INT, "answer": INT},
            "label": TRUTH,
        },
    ),
    "record": (
        "fewglue_32dev/ReCoRD",
        flatten_record,
        {
            **dict.fromkeys(["passage", "query"], STRING),
            "entities": List(STRING),
            "answers": List(STRING),
            "idx": {"passage": INT, "query": INT},
        },
    ),
    "rte": (
        "fewglue_32dev/RTE",
        numbered(RTE),
        {"premise": STRING, "hypothesis": STRING, "idx": INT, "label": ClassLabel(names=RTE)},
    ),
    "wic": (
        "fewglue_32dev/WiC",
        as_truth,
        {
            **dict.fromkeys(["word", "sentence1", "sentence2"], STRING),
            **dict.fromkeys(["start1", "start2", "end1", "end2", "idx"], INT),
            "label": TRUTH,
        },
    ),
    "wsc": (
        "superglue/WSC",
        flatten_wsc,
        {
            **dict.fromkeys(["text", "span1_text", "span2_text"], STRING),
            **dict.fromkeys(["span1_index", "span2_index", "idx"], INT),
            "label": TRUTH,
        },
    ),
}


@pytest.mark.parametrize("format", HUB)
def test_the_hubs_columns_are_read_as_the_official_files(tmp_path, format):
    name, flatten, features = HUB[format]
    folder = real(name)
    dev = folder / ("val.jsonl" if name.startswith("superglue") else "dev32.jsonl")
    tables = {"train": list(flatten(read(folder / "train.jsonl"))), "validation": list(flatten(read(dev)))}
    tables = {split: [{key: row[key] for key in features} for row in rows] for split, rows in tables.items()}
    hidden = [{**row, "label": -1} if "label" in row else {**row, "answers": []} for row in tables["validation"]]
    hub = load_hub(write_hub(tmp_path, features, **tables, test=hidden), format)
    files = load(folder, format)
    assert hub.labels == files.labels
    said = [
        Counter((one.choices, one.group, one.answer, frozenset(one.gold), target) for one, target in pairs(*splits))
        for task in (hub, files)
        for splits in ([task.train, task.dev], [task.test])
    ]
    assert said[0] == said[2] and said[1] == said[3]
    with pytest.raises(UserError, match="no test rows with labels"):
        load_hub(tmp_path, format, report="test")


GLUE = {
    "cola": (["sentence"], ["unacceptable", "acceptable"]),
    "sst2": (["sentence"], ["negative", "positive"]),
    "mrpc": (["sentence1", "sentence2"], ["not_equivalent", "equivalent"]),
    "qqp": (["question1", "question2"], ["not_duplicate", "duplicate"]),
    "mnli": (["premise", "hypothesis"], ["entailment", "neutral", "contradiction"]),
    "qnli": (["question", "sentence"], ["entailment", "not_entailment"]),
    "wnli": (["sentence1", "sentence2"], ["not_entailment", "entailment"]),
}


@pytest.mark.parametrize("format", GLUE)
def test_glue_is_read_from_the_hubs_columns(tmp_path, format):
    columns, names = GLUE[format]
    features = {**dict.fromkeys(columns, STRING), "label": ClassLabel(names=names), "idx": INT}

    def rows(split, hidden=False):
        labels = [-1 if hidden else number % len(names) for number in range(12)]
        return [
            {**{column: f"{split} {column} {number}" for column in columns}, "label": label, "idx": number}
            for number, label in enumerate(labels)
        ]

    validation = "validation_matched" if format == "mnli" else "validation"
    tables = {"train": rows("train"), validation: rows("dev"), "test": rows("test", hidden=True)}
    task = load_hub(write_hub(tmp_path, features, **tables), format)
    assert len(task.labels) == len(names)
    for number, (example, target) in enumerate(pairs(task.test)):
        assert example.choices == (tuple(f"dev {column} {number}" for column in columns),)
        assert target == number % len(names)


def test_own_words_for_a_forms_labels_keep_its_order():
    folder = real("superglue/COPA")
    task = load(folder, "copa", labels={"choice2": "latter", "choice1": "former"})
    assert task.labels == ["former", "latter"]
    assert task.test.targets.equal(load(folder, "copa").test.targets)
    with pytest.raises(UserError, match=r"task\.labels must name .* choice1, choice2"):
        load(folder, "copa", labels={"0": "former", "1": "latter"})


# Broken rows

RIGHT = {
    "rte": {"premise": "It rains.", "hypothesis": "It is wet.", "label": "entailment"},
    "copa": {"premise": "It rains.", "choice1": "a", "choice2": "b", "question": "cause", "label": 0},
    "wic": {"word": "go", "sentence1": "I go.", "sentence2": "You go.", "label": True}
    | {"start1": 2, "end1": 4, "start2": 4, "end2": 6},
    "wsc": {
        "text": "Ann saw Eve.",
        "target": {"span1_text": "Ann", "span1_index": 0, "span2_text": "Eve", "span2_index": 2},
        "label": True,
    },
    "multirc": {
        "passage": {"text": "P", "questions": [{"question": "Q", "answers": [{"text": "A", "label": 1}]}]},
    },
    "record": {
        "passage": {"text": "Ann", "entities": [{"start": 0, "end": 2}]},
        "qas": [{"query": "@placeholder", "answers": [{"start": 0, "end": 2, "text": "Ann"}]}],
    },
}
BROKEN = [
    ("rte", {"premise": None}, "val row 2: column 'premise' holds no text"),
    ("rte", {"label": None}, "val row 2 has no label"),
    ("rte", {"label": "perhaps"}, "the label 'perhaps'"),
    ("copa", {"question": "reason"}, "val row 2: column 'question' holds 'reason'"),
    ("copa", {"label": 2}, "the label '2'"),
    ("copa", {"label": -2}, "the label '-2'"),
    ("wic", {"end2": 8}, "val row 2: start2 = 4 and end2 = 8 mark no word of sentence2"),
    ("wic", {"start1": -1}, "val row 2: start1 = -1"),
    ("wic", {"start1": None}, "val row 2: column 'start1' holds no whole number"),
    ("wsc", {"target": {**RIGHT["wsc"]["target"], "span1_text": "An"}}, "val row 2: the text does not hold 'An'"),
    ("wsc", {"target": {"span1_text": "Ann"}}, "val row 2: column not found: 'span2_text'"),
    ("multirc", {"passage": {"text": "P", "questions": None}}, "val row 2: column 'questions'"),
    ("multirc", {"passage": None}, "val row 2: column 'passage'"),
    ("record", {"passage": {"text": "Ann", "entities": None}}, "val row 2: column 'entities'"),
    ("record", {"passage": {"text": "Ann", "entities": [{"start": 0}]}}, "val row 2: column not found: 'end'"),
]


@pytest.mark.parametrize(("format", "fault", "line"), BROKEN)
def test_a_broken_row_is_named(tmp_path, format, fault, line):
    write(tmp_path, train=[RIGHT[format]] * 3, val=[RIGHT[format], {**RIGHT[format], **fault}])
    with pytest.raises(UserError) as caught:
        load(tmp_path, format)
    assert line in str(caught.value) and "\n" not in str(caught.value)


def test_columns_of_another_task_are_refused(tmp_path):
    write(tmp_path, train=[RIGHT["wic"]], val=[RIGHT["wic"]])
    with pytest.raises(
        UserError, match=r"train row 1: column not found: 'premise', which task\.format asks for; .*word"
    ):
        load(tmp_path, "rte")
