"""Layers of settings: their order, what they refuse, and that the refusal is one line that names key and origin."""

import pytest
from conftest import run_process

from shared.config import CommandLine, load, recipe_names, recipe_summary
from shared.errors import UserError


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
    assert (resolve("demo").steps, resolve("demo").task.shots) == (600, 16)
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


# What is refused, and in which words


@pytest.mark.parametrize(
    ("text", "key"),
    [("stepz = 3\n", "stepz"), ("[task]\nshotz = 3\n", "task.shotz"), ("[trask]\nshots = 3\n", "trask")],
)
def test_an_unknown_key_in_a_file_is_refused(toml, text, key):
    mine = toml(text)
    line = refusal(mine)
    assert key in line and mine in line and "no setting" in line


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
]


@pytest.mark.parametrize(("key", "value"), IMPOSSIBLE)
def test_an_impossible_value_names_its_key_and_its_origin(monkeypatch, key, value):
    line = refusal("demo", f"--{key}={value}")
    assert key in line and "the command line" in line
    name = "TANDEM_" + key.upper().replace(".", "__")
    monkeypatch.setenv(name, value)
    line = refusal("demo")
    assert key in line and "the environment" in line


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


def test_several_faults_are_all_told(toml):
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


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "bytes.toml"
    path.write_bytes(b"\xff\xfe\x00")
    assert str(path) in refusal(str(path))


def test_an_unknown_recipe_is_told_the_others():
    line = refusal("nosuch")
    assert "nosuch" in line and "demo" in line and "agnews" in line


# As a process

BAD_COMMANDS = {
    "unknown recipe": (["nosuch"], {}, "nosuch"),
    "unknown option": (["demo", "--stepz", "3"], {}, "--stepz"),
    "option without its value": (["demo", "--steps"], {}, "--steps"),
    "wrong value": (["demo", "--steps", "0"], {}, "steps"),
    "unknown name in the environment": (["demo"], {"TANDEM_STEPZ": "3"}, "TANDEM_STEPZ"),
    "file that is no TOML": (["broken.toml"], {}, "broken.toml"),
    "resume of no run": (["--resume", "nosuch"], {}, "nosuch"),
    "replay of no run": (["--replay", "nosuch"], {}, "nosuch"),
    "line break in an option": (["demo", "--oh\nno"], {}, "no"),
}


@pytest.mark.parametrize("case", BAD_COMMANDS)
def test_a_program_with_bad_settings_says_one_line_and_leaves_nothing(tmp_path, case):
    arguments, environment, named = BAD_COMMANDS[case]
    (tmp_path / "broken.toml").write_text("steps = = 3\n")
    line = run_process("trainer", *arguments, cwd=tmp_path, **environment).refused()
    assert named in line
    assert not (tmp_path / "runs").exists()


def test_help_explains_every_setting(tmp_path):
    from shared.settings import Settings

    done = run_process("trainer", "--help", cwd=tmp_path)
    assert done.status == 0
    told = " ".join(done.out.split())
    for name, field in Settings.model_fields.items():
        inner = getattr(field.annotation, "model_fields", None)
        for key, one in (inner or {name: field}).items():
            if name != "recipe":
                assert f"--{name}.{key}" in told or f"--{name}" in told
            assert " ".join(one.description.split())[:25] in told, (name, key)


def test_list_names_the_recipes(tmp_path):
    done = run_process("trainer", "--list", cwd=tmp_path)
    assert done.status == 0
    assert [line.split()[0] for line in done.out.splitlines()] == recipe_names()
