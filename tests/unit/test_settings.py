"""Layers of settings: their order, what they refuse, and that the refusal is one line that names key and origin."""

from operator import attrgetter

import pytest
from conftest import run_process

from shared.config import CommandLine, environment, load, recipe_names, recipe_summary
from shared.errors import UserError
from shared.layers import file_layers
from shared.settings import EFFECTS, PromptSettings, Settings


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch):
    import os

    for name in [name for name in os.environ if name.startswith("TANDEM_")]:
        monkeypatch.delenv(name)


def resolve(*arguments):
    parser = CommandLine("python -m trainer", "Test.")
    return parser.resolve(parser.parse_args(list(arguments)))


def refusal(*arguments):
    with pytest.raises(UserError) as caught:
        resolve(*arguments)
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.fixture
def toml(tmp_path):
    def write(text, name="mine.toml"):
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


# Recipes


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_loads_and_says_what_it_is(name):
    settings = resolve(name)
    assert settings.recipe == name
    assert settings.task.path or settings.task.hub
    assert len(set(settings.task.labels.values())) >= 2 or settings.task.format != "text"
    assert len(recipe_summary(name)) > 10


def test_the_recipes_of_the_issue_are_there():
    assert {"demo", "agnews", "sst2", "mr"} <= set(recipe_names())


SUPERGLUE = ["boolq", "cb", "copa", "rte", "wic", "wsc"]


@pytest.mark.parametrize("task", SUPERGLUE)
@pytest.mark.parametrize("model", ["roberta-large", "bert-large-cased", "minilm"])
def test_each_task_has_a_recipe_for_each_encoder(task, model):
    settings = resolve(f"{task}-{model}")
    assert (settings.task.format, settings.task.config, settings.backbone.family) == (task, task, "encoder")
    assert model.removesuffix("-cased") in (settings.backbone.path or settings.backbone.hub).replace("_", "-")


@pytest.mark.parametrize(
    ("task", "batch", "lr", "epochs"),
    [
        ("boolq", 32, 7e-3, 100),
        ("rte", 32, 5e-3, 100),
        ("copa", 16, 9e-3, 120),
        ("wic", 32, 1e-2, 50),
        ("wsc", 16, 1e-2, 12),
    ],
)
@pytest.mark.parametrize("model", ["roberta-large", "bert-large-cased"])
def test_the_papers_recipes_have_the_released_hyperparameters(task, batch, lr, epochs, model):
    settings = resolve(f"{task}-{model}")
    optimizer, restarts = settings.optimizer, settings.restarts
    assert (optimizer.name, optimizer.batch_size, optimizer.lr, settings.epochs) == ("adamw", batch, lr, epochs)
    assert (settings.prompt.num_tokens, settings.backbone.max_tokens, settings.backbone.dropout) == (8, 128, 0.1)
    assert (restarts.policy, restarts.mode, restarts.epochs, restarts.candidates) == ("always", "sync", [1, 2, 3], 3)
    assert (settings.task.report, settings.task.shots) == ("validation", "all")


def test_a_packaged_recipe_may_build_on_another():
    above, below = resolve("copa-bert-large-cased"), resolve("copa-roberta-large")
    assert above.recipe == "copa-bert-large-cased" and below.recipe == "copa-roberta-large"
    assert above.task == below.task and above.optimizer == below.optimizer
    assert above.backbone.hub != below.backbone.hub


def test_demo_needs_no_download():
    settings = resolve("demo")
    assert settings.task.path.startswith("package:")
    assert settings.backbone.path.startswith("package:")


def test_saved_settings_load_again_as_they_were():
    settings = resolve("demo", "--steps", "7", "--task.labels", '{"a": "one", "b": "two"}')
    assert load(settings.model_dump(), "config.json") == settings


# Layers


def test_each_layer_wins_over_the_one_before(toml, monkeypatch):
    mine = toml('recipe = "demo"\nsteps = 11\nseed = 12\nnum_evals = 3\n[task]\nshots = 5\n')
    assert (resolve("demo").steps, resolve("demo").task.shots) == (400, 16)
    assert (resolve(mine).steps, resolve(mine).seed, resolve(mine).task.shots) == (11, 12, 5)
    monkeypatch.setenv("TANDEM_STEPS", "21")
    monkeypatch.setenv("TANDEM_TASK__SHOTS", "6")
    assert (resolve(mine).steps, resolve(mine).seed, resolve(mine).task.shots) == (21, 12, 6)
    settings = resolve(mine, "--steps", "31", "--optimizer.lr", "0.5")
    assert (settings.steps, settings.seed, settings.num_evals, settings.task.shots) == (31, 12, 3, 6)
    assert settings.optimizer.lr == 0.5


def test_a_toml_file_keeps_what_it_does_not_name_of_its_recipe(toml):
    settings = resolve(toml('recipe = "demo"\n[prompt]\nnum_tokens = 3\n'))
    assert settings.prompt.num_tokens == 3
    assert settings.prompt.words == resolve("demo").prompt.words
    assert settings.task == resolve("demo").task
    assert settings.recipe == "demo"


def test_a_toml_file_without_a_recipe_stands_alone(toml):
    settings = resolve(toml("steps = 9\n", name="alone.toml"))
    assert (settings.steps, settings.recipe, settings.task.path) == (9, "alone", None)


def test_labels_are_one_value_and_are_not_merged(toml):
    mine = toml('recipe = "demo"\n[task]\nlabels = { good = "fine", bad = "awful" }\n')
    assert resolve(mine).task.labels == {"good": "fine", "bad": "awful"}


def test_the_environment_picks_the_recipe_and_the_command_line_wins_over_it(monkeypatch):
    monkeypatch.setenv("TANDEM_RECIPE", "sst2")
    assert resolve().recipe == "sst2"
    assert resolve("mr").recipe == "mr"
    monkeypatch.delenv("TANDEM_RECIPE")
    assert resolve().recipe == "demo"


def test_the_switch_for_tracebacks_is_not_taken_for_a_setting(monkeypatch):
    monkeypatch.setenv("TANDEM_TRACEBACK", "1")
    assert resolve("demo").recipe == "demo"


# What is refused, and in which words


@pytest.mark.parametrize(
    ("text", "key"),
    [("stepz = 3\n", "stepz"), ("[task]\nshotz = 3\n", "task.shotz"), ("[trask]\nshots = 3\n", "trask")],
)
def test_an_unknown_key_in_a_file_is_refused(toml, text, key):
    mine = toml(text)
    line = refusal(mine)
    assert key in line and mine in line and "not a setting" in line


@pytest.mark.parametrize("name", ["TANDEM_STEPZ", "TANDEM_TASK__SHOTZ", "TANDEM_TASK_SHOTS", "TANDEM_STEPS__MORE"])
def test_an_unknown_name_in_the_environment_is_refused(monkeypatch, name):
    monkeypatch.setenv(name, "3")
    line = refusal("demo")
    assert name in line and "environment" in line


@pytest.mark.parametrize("option", ["--stepz", "--task.shotz", "--task.shot"])
def test_an_unknown_option_is_refused(option):
    assert option in refusal("demo", option, "3")


IMPOSSIBLE = [
    ("steps", "0"),
    ("steps", "-1"),
    ("steps", "1.5"),
    ("steps", "many"),
    ("steps", ""),
    ("seed", "-1"),
    ("num_evals", "0"),
    ("name", "../elsewhere"),
    ("name", ".hidden"),
    ("name", ""),
    ("device", "abacus"),
    ("task.shots", "0"),
    ("task.dev_shots", "0"),
    ("task.test_rows", "0"),
    ("task.description", "x" * 2001),
    ("backbone.temperature", "0"),
    ("backbone.temperature", "nan"),
    ("backbone.label_position", "aside"),
    ("prompt.num_tokens", "0"),
    ("prompt.init", "dice"),
    ("optimizer.lr", "0"),
    ("optimizer.lr", "nan"),
    ("optimizer.lr", "inf"),
    ("optimizer.batch_size", "0"),
    ("restarts.policy", "sometimes"),
    ("restarts.candidates", "0"),
    ("restarts.candidates", "65"),
    ("restarts.max_challengers", "0"),
    ("restarts.trial_steps", "0"),
    ("restarts.sync_wait_seconds", "nan"),
    ("bus.bind", "http://127.0.0.1:5555"),
    ("bus.bind", "127.0.0.1:5555"),
    ("bus.bind", ""),
    ("bus.lease_seconds", "inf"),
    ("proposer.max_concurrency", "0"),
    ("metrics.port", "65536"),
    ("seed", str(2**63)),
    ("seed", str(2**32)),
    ("proposer.seed", str(2**64)),
    ("threads", "100000"),
    ("folder", ""),
    ("task.path", ""),
    ("backbone.path", ""),
    ("proposer.base_url", "localhost:11434"),
    ("proposer.base_url", "ftp://host/v1"),
    ("proposer.base_url", "unix:///run/ollama.sock"),
    ("proposer.base_url", "http://"),
    ("proposer.base_url", "http://two words/v1"),
]


@pytest.mark.parametrize(("key", "value"), IMPOSSIBLE)
def test_an_impossible_value_names_its_key_and_its_origin(monkeypatch, key, value):
    line = refusal("demo", f"--{key}={value}")
    assert key in line and "the command line" in line
    name = "TANDEM_" + key.upper().replace(".", "__")
    monkeypatch.setenv(name, value)
    line = refusal("demo")
    assert key in line and f"{name} in the environment" in line


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("steps = 0\n", "steps"),
        ('steps = "3 x"\n', "steps"),
        ("steps = true_\n", "mine.toml"),
        ("task = 3\n", "task"),
        ("[optimizer]\nlr = nan\n", "optimizer.lr"),
        ("[task]\nlabels = 3\n", "task.labels"),
        ("[task]\nlabels = { a = 1 }\n", "task.labels.a"),
        (f'[task]\nlabels = {{ a = "{"x" * 201}", b = "y" }}\n', "task.labels.a"),
        ('[task]\nlabels = { a = "x", b = "x" }\n', "task.labels"),
        ("[prompt]\nfrozen = true\n", "prompt.frozen"),
        ('[prompt]\nper_class = true\n[backbone]\nfamily = "encoder"\n', "prompt.per_class"),
        ('[bus]\nconnect = ["tcp://ok:1", "nowhere"]\n', "bus.connect"),
        ('recipe = "nosuch"\n', "nosuch"),
        ('folder = "a\\u0000b"\n', "folder"),
        ('[proposer.budget]\nfile = "counts.json"\n', "proposer.budget.file"),
    ],
)
def test_an_impossible_value_in_a_file_is_refused(toml, text, key):
    assert key in refusal(toml(text))


def test_the_blame_goes_to_the_layer_that_set_the_value(toml, monkeypatch):
    mine = toml('recipe = "demo"\nsteps = 0\n')
    assert mine in refusal(mine)
    monkeypatch.setenv("TANDEM_STEPS", "-5")
    line = refusal(mine)
    assert "the environment" in line and mine not in line and "-5" in line
    line = refusal(mine, "--steps", "-6")
    assert "the command line" in line and "-6" in line
    assert resolve(mine, "--steps", "6").steps == 6  # what is covered does no harm


def test_several_faults_are_all_named(toml):
    line = refusal(toml("steps = 0\nseed = -1\n[task]\nshots = 0\n"))
    assert all(key in line for key in ("steps", "seed", "task.shots"))


def test_a_switch_takes_yes_and_no_but_nothing_else(monkeypatch):
    assert resolve("demo", "--no-average").average is False
    assert resolve("demo", "--average").average is True
    assert "average" in refusal("demo", "--average=perhaps")
    monkeypatch.setenv("TANDEM_AVERAGE", "false")
    assert resolve("demo").average is False
    monkeypatch.setenv("TANDEM_AVERAGE", "perhaps")
    assert "average" in refusal("demo") and "the environment" in refusal("demo")


def test_a_file_that_is_not_text_is_refused(tmp_path):
    path = tmp_path / "bytes.toml"
    path.write_bytes(b"\xff\xfe\x00")
    assert str(path) in refusal(str(path))


def test_an_unknown_recipe_is_answered_with_the_known_ones():
    line = refusal("nosuch")
    assert "nosuch" in line and "demo" in line and "agnews" in line


# The environment takes values as the command line does

SPELLINGS = [
    ("bus.connect", "tcp://127.0.0.1:7190", ["tcp://127.0.0.1:7190"]),
    ("bus.connect", "tcp://a:1,tcp://b:2", ["tcp://a:1", "tcp://b:2"]),
    ("bus.connect", '["tcp://a:1", "tcp://b:2"]', ["tcp://a:1", "tcp://b:2"]),
    ("restarts.epochs", "1,2,3", [1, 2, 3]),
    ("restarts.epochs", "[1, 2]", [1, 2]),
    ("task.labels", '{"a": "one, two", "b": "three"}', {"a": "one, two", "b": "three"}),
    ("task.labels", "a=one,b=two", {"a": "one", "b": "two"}),
    ("task.shots", "all", "all"),
    ("task.text2", "None", None),
    ("task.test_rows", "None", None),
    ("task.description", "[not a list", "[not a list"),
    ("name", "7", "7"),
]


@pytest.mark.parametrize(("key", "text", "value"), SPELLINGS)
def test_the_environment_takes_what_the_command_line_takes(monkeypatch, key, text, value):
    typed = resolve("demo", f"--{key}={text}")
    monkeypatch.setenv("TANDEM_" + key.upper().replace(".", "__"), text)
    given = resolve("demo")
    assert attrgetter(key)(given) == attrgetter(key)(typed) == value
    assert given == typed


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("TANDEM_BUS__CONNECT", "nowhere"),
        ("TANDEM_BUS__CONNECT", "[broken"),
        ("TANDEM_TASK__LABELS", "a"),
        ("TANDEM_TASK__LABELS", "{broken"),
        ("TANDEM_RESTARTS__EPOCHS", "1,two"),
        ("TANDEM_TASK", "7"),
        ("TANDEM_STEPS", ""),
    ],
)
def test_a_wrong_value_in_the_environment_names_the_variable(monkeypatch, name, text):
    monkeypatch.setenv(name, text)
    assert f"{name} in the environment" in refusal("demo")


def test_the_environment_may_hold_a_whole_section(monkeypatch):
    monkeypatch.setenv("TANDEM_TASK", '{"shots": 4, "dev_shots": 5}')
    monkeypatch.setenv("TANDEM_TASK__SHOTS", "6")
    task = resolve("demo").task
    assert (task.shots, task.dev_shots, task.path) == (6, 5, resolve("demo").task.path)


# Settings for the same thing, and settings without effect


@pytest.mark.parametrize(
    ("first", "second", "values"),
    [
        ("steps", "epochs", ("7", "8")),
        ("task.hub", "task.path", ("some/set", "folder")),
        ("task.dev_shots", "task.dev_share", ("7", "0.5")),
        ("backbone.hub", "backbone.path", ("some/model", "folder")),
        ("restarts.request_every", "restarts.epochs", ("7", "[8]")),
    ],
)
def test_of_two_settings_for_the_same_thing_the_later_counts(monkeypatch, first, second, values):
    unset = attrgetter(second)(load({}, "a test"))
    monkeypatch.setenv("TANDEM_" + second.upper().replace(".", "__"), values[1])
    both = resolve("demo")
    assert attrgetter(second)(both) != unset
    later = resolve("demo", f"--{first}={values[0]}")
    assert attrgetter(second)(later) == unset and str(attrgetter(first)(later)) == values[0]
    assert attrgetter(second)(resolve("demo", f"--{first}={values[0]}", f"--{second}={values[1]}")) != unset


FOREIGN = [
    ("demo", "backbone.dropout", "0.1", "'encoder'"),
    ("demo", "backbone.pooling", "text", "'encoder'"),
    ("demo", "backbone.template", "{text}: ", "'decoder'"),
    ("rte-minilm", "backbone.temperature", "0.1", "'dual_encoder'"),
    ("rte-minilm", "backbone.label_position", "front", "'dual_encoder'"),
    ("rte-minilm", "backbone.augment", "true", "'dual_encoder'"),
    ("rte-minilm", "task.text", "body", "'text'"),
    ("rte-minilm", "task.text2", "body", "'text'"),
    ("rte-minilm", "task.label", "class", "'text' or 'image'"),
    ("cifar10-coop", "task.text2", "body", "'text'"),
    ("demo", "task.image", "img", "'image'"),
    ("outline-tinyclip", "task.image", "img", "without task.path"),
    ("outline-tinyclip", "task.label", "class", "without task.path"),
    ("demo", "task.config", "rte", "without task.path"),
    ("demo", "backbone.augment", "true", "'image'"),
    ("demo", "backbone.library", "open_clip", "'image'"),
    ("cifar10-coop", "backbone.pretrained", "openai", "'open_clip'"),
    ("demo", "restarts.sync_wait_seconds", "0.1", "'sync'"),
    ("cifar10-coop", "prompt.words", "a picture of", "'words'"),
    ("rte-minilm", "prompt.per_class", "true", "'dual_encoder'"),
    ("demo", "prompt.frozen", "true", "'encoder'"),
]


@pytest.mark.parametrize(("recipe", "key", "value", "needs"), FOREIGN)
def test_a_setting_without_effect_is_refused(monkeypatch, toml, recipe, key, value, needs):
    typed = f"--{key}" if value == "true" else f"--{key}={value}"
    line = refusal(recipe, typed)
    assert key in line and needs in line
    section, name = key.split(".")
    quoted = value if value in ("true", "0.1") else f'"{value}"'
    line = refusal(toml(f'recipe = "{recipe}"\n[{section}]\n{name} = {quoted}\n'))
    assert key in line and needs in line
    with pytest.raises(UserError, match=key):
        Settings(recipe=recipe, **{section: {name: value}})
    monkeypatch.setenv("TANDEM_" + key.upper().replace(".", "__"), value)
    assert key in refusal(recipe)


def test_a_setting_that_another_layer_made_idle_is_refused_where_it_is_the_later(toml):
    mine = toml('recipe = "rte-minilm"\n[backbone]\nfamily = "encoder"\ndropout = 0.1\n')
    assert resolve(mine).backbone.dropout == 0.1
    assert resolve(mine, "--backbone.family", "dual_encoder", "--task.format", "text").backbone.dropout == 0.1
    line = refusal(mine, "--backbone.family", "decoder", "--backbone.pooling", "text")
    assert "backbone.pooling (from the command line)" in line and "backbone.family = 'decoder'" in line


@pytest.mark.parametrize(
    ("key", "value", "decider"),
    [
        ("sync_wait_seconds", "5.0", ("source", "vocabulary")),
        ("digest", "blind", ("source", "random")),
        ("max_challengers", "2", ("policy", "greedy")),
        ("queue_size", "2", ("policy", "always")),
        ("patience", "2", ("policy", "always")),
    ],
)
def test_what_has_no_effect_on_restarts_is_refused_where_one_layer_says_both(monkeypatch, toml, key, value, decider):
    options = ["--restarts.mode", "sync", f"--restarts.{decider[0]}", decider[1], f"--restarts.{key}", value]
    if key == "patience":
        options += ["--restarts.source", "random"]
    line = refusal("demo", *options)
    assert f"restarts.{key}" in line and f"restarts.{decider[0]} = {decider[1]!r}" in line
    mine = toml(f'recipe = "demo"\n[restarts]\n{key} = {repr(value) if value.isalpha() else value}\n')
    assert str(getattr(resolve(mine, *options[:-2] if key != "patience" else options[:4]).restarts, key)) == value
    monkeypatch.setenv(f"TANDEM_RESTARTS__{key.upper()}", value)
    assert str(getattr(resolve("demo", *options[:4]).restarts, key)) == value


def test_defaults_and_recipes_never_count_as_without_effect():
    assert resolve("rte-roberta-large", "--backbone.family", "decoder").backbone.dropout == 0.1
    assert resolve("demo", "--backbone.pooling", "prompt", "--task.image", "image").recipe == "demo"
    assert Settings(**resolve("rte-roberta-large").model_dump()) == resolve("rte-roberta-large")


@pytest.mark.parametrize("name", recipe_names())
def test_no_recipe_sets_another_familys_settings(name):
    values = [layer.values for layer in file_layers(name)]
    family = resolve(name).backbone.family
    idle = {name for effect in EFFECTS for name in effect.names
            if family not in effect.needs.get("backbone.family", (family,))}  # fmt: skip
    for layer in values:
        assert not idle & {f"backbone.{key}" for key in layer.get("backbone", {})}


@pytest.mark.parametrize("device", ["auto", "cpu", "mps", "cuda", "cuda:0", "cuda:1"])
def test_devices(device):
    assert resolve("demo", "--device", device).device == device
    assert load(resolve("demo", "--device", device).model_dump(), "a test").device == device


@pytest.mark.parametrize("device", ["cuda:", "cuda:x", "gpu", "cpu:1", "cuda:-1", ""])
def test_a_word_that_is_not_a_device_is_refused(device):
    assert "device" in refusal("demo", f"--device={device}")


# In Python


def test_keywords_go_over_the_recipe():
    settings = Settings(recipe="demo", steps=100, task={"shots": 4}, prompt=PromptSettings(num_tokens=3))
    demo = resolve("demo")
    assert (settings.steps, settings.task.shots, settings.prompt.num_tokens) == (100, 4, 3)
    assert settings.task.path == demo.task.path and settings.prompt.words == demo.prompt.words
    assert settings.baseline == demo.baseline and settings.recipe == "demo"
    assert Settings() == Settings(recipe="demo") == demo
    assert Settings(recipe="rte-roberta-large", steps=5).epochs is None


def test_keywords_go_over_a_file(toml):
    mine = toml('recipe = "demo"\nsteps = 11\n[task]\nshots = 5\n')
    settings = Settings(recipe=mine, task={"dev_shots": 6})
    assert (settings.steps, settings.task.shots, settings.task.dev_shots) == (11, 5, 6)


def test_the_environment_does_not_leak_into_python(monkeypatch):
    monkeypatch.setenv("TANDEM_SEED", "77")
    monkeypatch.setenv("TANDEM_TASK__SHOTS", "6")
    assert Settings().seed == 1 and load({}, "a test").seed == 1 and Settings().task.shots == 16
    asked = Settings(recipe="demo", **environment())
    assert (asked.seed, asked.task.shots) == (77, 6)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"recipe": "nosuch"}, "nosuch"),
        ({"stepz": 3}, "stepz"),
        ({"steps": 0, "seed": -1}, "steps"),
        ({"task": {"shotz": 3}}, "task.shotz"),
        ({"task": 3}, "task"),
        ({"prompt": {"words": "a" + " " * 3000 + "b"}}, "prompt.words"),
        ({"task": {"description": "x" * 2001}}, "task.description"),
    ],
)
def test_wrong_keywords_are_one_line(values, said):
    with pytest.raises(UserError) as caught:
        Settings(**values)
    assert said in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 2000


@pytest.mark.parametrize(
    "address",
    [
        "http://me:pa55word@host:1/v1",
        "http://me:pa55@word@host/v1",
        "http://pa55word@h",
        "http://me:it's\"pa55word@host/v1",
        "http://me:pa55word@host/v1?api_key=pa55word&x=pa55",
        "http://[hidden]@host/v1?key=pa55word@host",
        "http://[hidden]@host#token=pa55word",
    ],
)
def test_a_password_is_never_kept_or_shown(address):
    settings = Settings(proposer={"base_url": address})
    assert settings.proposer.base_url == address
    for shown in (
        settings.model_dump(),
        settings.model_dump_json(),
        settings,
        refusal("demo", f"--proposer.seed={address}"),
    ):
        assert "pa55" not in str(shown) and "word@" not in str(shown)
    assert settings.model_dump()["proposer"]["base_url"].startswith("http://[hidden]@h")
    plain = Settings(proposer={"base_url": "http://host:1/v1"})
    assert load(plain.model_dump(), "a test") == plain


# As a process

BAD_COMMANDS = {
    "unknown recipe": (["nosuch"], {}, "nosuch"),
    "unknown option": (["demo", "--stepz", "3"], {}, "--stepz"),
    "option without its value": (["demo", "--steps"], {}, "--steps"),
    "wrong value": (["demo", "--steps", "0"], {}, "steps"),
    "unknown name in the environment": (["demo"], {"TANDEM_STEPZ": "3"}, "TANDEM_STEPZ"),
    "file that is not TOML": (["broken.toml"], {}, "broken.toml"),
    "resume of no run": (["--resume", "nosuch"], {}, "nosuch"),
    "replay of no run": (["--replay", "nosuch"], {}, "nosuch"),
    "line break in an option": (["demo", "--oh\nno"], {}, "no"),
    "escape sequence in an option": (["demo", "--\x1b[2J\u202eno"], {}, "no"),
    "escape sequence in the environment": (["demo"], {"TANDEM_STEPS": "\x1b[2J\x9b2J\u202e"}, "TANDEM_STEPS"),
    "folder of data with an escape sequence": (["demo", "--task.path", "\x1b]0;a\x07"], {}, "task.path"),
    "device that is not there": (["demo", "--device", "cuda:99"], {}, "cuda:99"),
}


@pytest.mark.parametrize("case", BAD_COMMANDS)
def test_a_program_with_bad_settings_says_one_line_and_leaves_nothing(tmp_path, case):
    arguments, environment, named = BAD_COMMANDS[case]
    (tmp_path / "broken.toml").write_text("steps = = 3\n")
    line = run_process("trainer", *arguments, cwd=tmp_path, **environment).refused()
    assert named in line and line.isprintable()
    assert not any(path.is_dir() for path in (tmp_path / "runs").glob("*"))


def test_help_explains_every_setting(tmp_path):
    from shared.settings import Settings

    done = run_process("trainer", "--help", cwd=tmp_path)
    assert done.status == 0
    shown = " ".join(done.out.split())
    for name, field in Settings.model_fields.items():
        inner = getattr(field.annotation, "model_fields", None)
        for key, one in (inner or {name: field}).items():
            if name != "recipe":
                assert f"--{name}.{key}" in shown or f"--{name}" in shown
            assert " ".join(one.description.split())[:25] in shown, (name, key)


def test_list_names_the_recipes(tmp_path):
    done = run_process("trainer", "--list", cwd=tmp_path)
    assert done.status == 0
    assert [line.split()[0] for line in done.out.splitlines()] == recipe_names()
