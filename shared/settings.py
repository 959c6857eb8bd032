"""Every setting of the trainer and the proposer, in one schema.

Layers, each over the one before: these defaults, a packaged recipe, a user's TOML file, the environment
(`TANDEM_STEPS`, `TANDEM_TASK__SHOTS`), the command line (`--task.shots 8`). `shared.config` reads them for programs.
In Python, `Settings(recipe="demo", steps=100, task={"shots": 8})` puts the keywords over the recipe; the environment
is not read unless asked for: `Settings(recipe="demo", **environment())`. The text under a field is its help.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_serializer,
    model_validator,
)
from pydantic_settings import CliPositionalArg

from shared.errors import UserError
from shared.layers import Layer, explain, file_layers, join, origin, setter
from shared.text import hide_in_address

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
TextFormat = Literal["text", "boolq", "cb", "copa", "multirc", "record", "rte", "wic", "wsc"]
GlueFormat = Literal["cola", "sst2", "mrpc", "qqp", "mnli", "qnli", "wnli"]
Format = TextFormat | GlueFormat | Literal["image"]
Projection = Literal["cosine", "l2"]
Endpoint = Annotated[str, StringConstraints(pattern=r"^(tcp|ipc)://.+$")]
Location = Annotated[str, StringConstraints(min_length=1, pattern=r"^[^\x00]*$")]
HttpAddress = Annotated[str, StringConstraints(pattern=r"^[hH][tT][tT][pP][sS]?://[^/\s?#][^\s]*$")]
MAX_SEED = 2**32 - 1
"""All libraries take seeds up to this."""
Device = Annotated[str, StringConstraints(pattern=r"^(auto|cpu|mps|cuda(:[0-9]{1,3})?)$")]


class Section(BaseModel):
    """Settings that belong together."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, frozen=True, allow_inf_nan=False)


class TaskSettings(Section):
    """The examples to learn from."""

    path: Location | None = None
    """Folder with the data, or package:NAME/FOLDER. Of path and hub the one set later counts, and path if both are
    set together. Text: train, test, dev (or validation, val) files, .jsonl, .json, .csv, .tsv or .parquet. Images: a
    folder for each split with a folder for each class, or a data set in CoOp's layout."""
    hub: str | None = None
    """Hub name of a data set."""
    config: str | None = None
    """Configuration of the hub's data set, for example rte of aps/super_glue; or the name of a data set of CoOp."""
    format: Format = "text"
    """What a row holds: text (one column, or two with task.text2), a task of SuperGLUE or GLUE, or an image."""
    text: str = "text"
    """Column with the text, for format text."""
    text2: str | None = None
    """Column with the second text of a pair, for format text."""
    image: str = "image"
    """Column with the image, for format image and data of the hub."""
    label: str = "label"
    """Column with the label, for formats text and image."""
    labels: dict[str, Annotated[str, StringConstraints(max_length=200)]] = {}
    """Raw labels and the words that name them, in the order of the classes. Several raw labels may share words.
    Empty: those of the format, or the labels in the data name themselves."""
    description: Annotated[str, StringConstraints(max_length=2000)] = "Classify the text."
    """One line that describes the task to the LLM."""
    shots: Literal["all"] | Annotated[int, Field(gt=0)] = 16
    """Training examples per class, or all rows."""
    dev_shots: int = Field(16, gt=0)
    """Development examples per class; prompts are evaluated on them, and they are never reported as test."""
    dev_share: float | None = Field(None, gt=0, lt=1)
    """Share of the training rows used for development, instead of dev_shots. Of the two the one set later counts, and
    dev_share if both are set together."""
    report: Literal["test", "validation", "third"] = "test"
    """Rows reported at the end: the test rows; the validation rows, if the labels of test are secret (development rows
    then come from training); or a third of all rows, drawn by seed 0, if there is only one file."""
    test_rows: int | None = Field(None, gt=0)
    """At most this many of the reported rows, drawn by seed 0. Default: all."""


class BackboneSettings(Section):
    """The frozen model."""

    path: Location | None = None
    """Folder of the model as transformers saves it, or a .gguf file; or package:NAME/FOLDER. Of path and hub the one
    set later counts, and path if both are set together."""
    hub: str | None = "sentence-transformers/all-MiniLM-L6-v2"
    """Hub name of the model; or with library open_clip, the name that open_clip has for it, such as ViT-B-16."""
    library: Literal["transformers", "open_clip"] = "transformers"
    """dual_encoder: loads the model; open_clip, which must be installed, has more models of images (CLIP's ResNets)."""
    pretrained: Location | None = None
    """open_clip: the weights for hub; a tag of open_clip, such as openai, a file, or package:NAME/FILE."""
    family: Literal["dual_encoder", "encoder", "decoder"] = "dual_encoder"
    """Where the prompt goes: dual_encoder, into the class texts (sentence encoders, CLIP, SigLIP); encoder, before the
    text, with a trainable head; decoder, before the text, with label words as the answer."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the frozen weights. auto: bfloat16 on CUDA, else float32. Prompts and heads are always float32."""
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    """Implementation of attention, as transformers names them. auto: the model's default."""
    device_map: Literal["auto"] | None = None
    """auto: spread the model over all GPUs, and to the processor's memory where they are too small. Default: the whole
    model on `device`."""
    quantization: Literal["int8", "nf4"] | None = None
    """Frozen weights in 8 or 4 bits, by bitsandbytes, which must be installed."""
    checkpointing: bool = False
    """Compute the activations inside each layer again for the backward pass: less memory, a third more time."""
    cuda_graphs: bool = True
    """On a GPU, record a training pass once for each shape and replay it: several times as fast on short inputs. Has no
    effect with checkpointing, device_map, quantization or flash_attention_2."""
    max_tokens: int = Field(128, gt=2)
    """Longest example, in tokens; longer ones are cut."""
    temperature: float | None = Field(None, gt=0)
    """dual_encoder: divides cosine similarities before the softmax. Default: the model's own, or 0.05 if it has
    none."""
    label_position: Literal["end", "middle", "front"] = "end"
    """dual_encoder: position of the label words in a class text."""
    augment: bool = False
    """dual_encoder with images: train on random crops and mirror images, as CoOp does. Otherwise images are encoded
    once."""
    num_workers: int = Field(2, ge=0)
    """dual_encoder with augment: processes that read and crop images ahead of training. 0: the trainer does."""
    features: str | None = "auto"
    """dual_encoder: folder that keeps the vectors of encoded images for later runs with the same model and files. auto:
    tandem in the user's cache folder; null: encode them in each run."""
    pooling: Literal["prompt", "text"] = "prompt"
    """encoder: the position that the head reads, the prompt's first (as PEFT pools) or the text's first token."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """encoder: dropout in the frozen model during training."""
    template: Annotated[str, StringConstraints(max_length=2000)] = "{text}\nAnswer:"
    """decoder: the text between prompt and label words; {text}, {text2} or any column of the data in braces."""


class PromptSettings(Section):
    """The soft prompt and its start."""

    num_tokens: int = Field(8, gt=0, le=256)
    """Longest prompt, in tokens. A prompt initialised from fewer tokens keeps its own length."""
    init: Literal["words", "vocabulary", "random"] = "words"
    """Initialise from words, from random words of the vocabulary, or from Gaussian noise."""
    words: Annotated[str, StringConstraints(max_length=2000)] = "a text about"
    """The initial words, for init words."""
    projection: Projection = "cosine"
    """Distance that finds the words nearest to a prompt."""
    per_class: bool = False
    """dual_encoder: one prompt for each class, as CoOp's class-specific contexts."""
    frozen: bool = False
    """encoder: train the head alone and keep the initial prompt; a control."""


class OptimizerSettings(Section):
    """Gradient descent."""

    name: Literal["adamw", "sgd"] = "adamw"
    """adamw, or sgd with momentum 0.9."""
    lr: float = Field(2e-3, gt=0)
    """Learning rate."""
    weight_decay: float = Field(0.01, ge=0)
    """Weight decay."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Learning rate over the budget: constant, or falling from lr to 0."""
    warmup_epochs: int = Field(0, ge=0)
    """Passes over the training rows at a learning rate of 1e-5 before lr."""
    batch_size: int = Field(32, gt=0)
    """Examples per step."""
    micro_batch: int | None = Field(None, gt=0)
    """encoder, decoder: most examples per pass through the model; the gradients of a step add up over its passes.
    Default: as many as fit into memory."""


class RestartSettings(Section):
    """When and how proposals become restart points."""

    policy: Literal["trial", "greedy", "always", "none"] = "trial"
    """trial: the best candidate trains as a challenger and is adopted only if it beats the incumbent; greedy: adopted
    at once if it scores better; always: replaces the incumbent unconditionally; none: plain prompt tuning, which
    ignores the rest of this section."""
    source: Literal["bus", "random", "vocabulary"] = "bus"
    """Source of proposals: LLM proposers on the bus, or the controls random (noise) and vocabulary (random words)."""
    mode: Literal["async", "sync"] = "async"
    """async never waits for a proposal; sync waits at fixed rounds."""
    request_every: int = Field(100, gt=0)
    """Lane-steps between requests for proposals; the first request comes before the first step, and while the model is
    loaded where the run starts from noise. Of this and epochs the one set later counts, and epochs if both are set
    together."""
    epochs: list[Annotated[int, Field(gt=0)]] = []
    """Fixed requests: after these passes of one lane over the training rows. Empty: use request_every."""
    candidates: int = Field(12, gt=0, le=64)
    """Prompts per request."""
    max_challengers: int = Field(3, gt=0, le=8)
    """Most challenger lanes at once."""
    queue_size: int = Field(8, gt=0, le=64)
    """Most scored candidates that wait for a trial; worse ones are dropped."""
    trial_steps: int = Field(40, gt=0)
    """Steps that a challenger trains before it is judged."""
    patience: int = Field(1, ge=0)
    """trial: challengers start after this many evaluations without a lower development loss; until then each step
    serves the incumbent better. Words with a lower development loss than an incumbent that comes from noise do not
    wait, and before the first step they replace it without a trial, unless a head is trained. 0: start all at once."""
    sync_wait_seconds: float = Field(60.0, gt=0)
    """sync: longest wait for a proposal; the run then continues without one."""
    digest: Literal["full", "shuffled", "blind"] = "full"
    """What proposers read. The others are controls: shuffled gives each prompt the figures of another; blind has task
    and labels only. Neither sends outcomes."""
    charge_scoring: bool = False
    """Charge the scoring of candidates to the budget: a forward pass costs a third of a step, in proportion to the
    positions it computes."""


class BusSettings(Section):
    """The connection between trainer and proposers."""

    bind: Endpoint = "tcp://127.0.0.1:5555"
    """Where the trainer listens. An address beyond loopback needs secret_key and allowed_keys."""
    connect: list[Endpoint] = ["tcp://127.0.0.1:5555"]
    """The trainers that a proposer serves."""
    secret_key: Location | None = None
    """CURVE: the secret key of this process, a file or env:VARIABLE. `python -m bus.keys` makes keys."""
    allowed_keys: Location = "keys/allowed"
    """CURVE: the proposers that a trainer admits, a file or env:VARIABLE with a public key and a name on each line."""
    trainer_keys: list[str] = []
    """CURVE: the public keys of the trainers in connect, one for all or one for each; a key, a file or env:VARIABLE."""
    lease_seconds: float = Field(120.0, gt=0)
    """A lease that is not settled within this time is void."""
    ready_seconds: float = Field(2.0, gt=0)
    """Interval at which a proposer repeats what it can take. The trainer considers it gone after five."""
    max_frame_bytes: int = Field(262_144, ge=1024)
    """Longer messages are refused."""


class BudgetSettings(Section):
    """What the LLM may cost. At a limit the proposer stops asking; without limits nothing is counted in a file.

    A request starts only if one as large as the largest so far still fits.
    """

    requests: int | None = Field(None, gt=0)
    """Requests to the LLM for one run of a trainer."""
    tokens: int | None = Field(None, gt=0)
    """Tokens sent and received for one run of a trainer."""
    cost: float | None = Field(None, gt=0)
    """Money for one run of a trainer, in the currency of the prices."""
    requests_per_hour: int | None = Field(None, gt=0)
    """Requests to the LLM within any hour."""
    tokens_per_hour: int | None = Field(None, gt=0)
    """Tokens sent and received within any hour."""
    cost_per_hour: float | None = Field(None, gt=0)
    """Money within any hour, in the currency of the prices."""
    price_in: float = Field(0.0, ge=0)
    """Price of a million tokens sent."""
    price_out: float = Field(0.0, ge=0)
    """Price of a million tokens received, thoughts included."""
    file: Location | None = None
    """Where the counts are kept. Proposers with the same file share its limits. Default: proposer-budget.json in
    `folder`."""

    @property
    def limited(self) -> bool:
        """Whether there is any limit."""
        per_run = (self.requests, self.tokens, self.cost)
        per_hour = (self.requests_per_hour, self.tokens_per_hour, self.cost_per_hour)
        return any(limit is not None for limit in per_run + per_hour)

    def price(self, tokens_in: int, tokens_out: int) -> float:
        """What tokens cost."""
        return (tokens_in * self.price_in + tokens_out * self.price_out) / 1e6

    @model_validator(mode="after")
    def check_prices(self) -> Self:
        """Money needs prices, and a file of counts needs a limit."""
        if (self.cost or self.cost_per_hour) and not (self.price_in or self.price_out):
            raise ValueError("a limit on cost needs price_in and price_out")
        if self.file and not self.limited:
            raise ValueError("proposer.budget.file has no effect without a limit; remove it, or set one")
        return self


class ProposerSettings(Section):
    """The LLM and how it is asked."""

    model: str = "embedded"
    """embedded, ollama:NAME, openai:NAME, anthropic:NAME, or anything that LangChain's init_chat_model accepts."""
    prompt_style: Literal["auto", "instruct", "continue"] = "auto"
    """The meta-prompt: instruct gives a chat model instructions, continue has a small model continue a sorted
    list; auto chooses by the model."""
    structured: Literal["auto", "off"] = "auto"
    """auto requests JSON that fits a schema, where model and server support it; off leaves the form of a reply to the
    model. Both are parsed."""
    thinking: Literal["auto", "off", "low", "medium", "high"] = "auto"
    """How much a thinking model thinks: auto leaves it to the model; low, medium and high allow about 1,000, 4,000
    and 16,000 tokens in addition to max_tokens. For ollama, openai and anthropic."""
    base_url: HttpAddress | None = Field(None, repr=False)
    """Address of a compatible server, for example http://other-host:11434 of Ollama on another host."""
    temperature: float = Field(1.0, ge=0, le=5)
    """The LLM's sampling temperature."""
    max_tokens: int = Field(1024, gt=0)
    """Maximum length of a chat model's answer, in tokens."""
    timeout_seconds: float = Field(60.0, gt=0)
    """Time limit of a request to the LLM as a whole."""
    max_concurrency: int = Field(1, gt=0, le=64)
    """Maximum number of concurrent requests of one proposer."""
    memory: int = Field(200, ge=0)
    """Outcomes remembered for each run."""
    seed: int | None = Field(None, ge=0, le=MAX_SEED)
    """Seed of the LLM's sampling, where the LLM has one, and of the words that templates shall begin with. Default: a
    new seed each time."""
    pull: bool = False
    """ollama: download the model at start if Ollama does not have it."""
    keep_alive: str | None = None
    """ollama: how long the model stays in memory after a request, for example 10m; -1 is forever. Default: Ollama's."""
    num_ctx: int | None = Field(None, gt=0)
    """ollama: context length in tokens. Raised where meta-prompt and answer need more. Default: what they need."""
    budget: BudgetSettings = BudgetSettings()
    """Limits on what the LLM may cost."""

    @field_serializer("base_url")
    def _hide_credentials(self, address: str | None) -> str | None:
        """Runs keep their settings, but never a password or a key; only the proposer needs them."""
        return address and hide_in_address(address)


class MetricsSettings(Section):
    """/metrics for Prometheus and /healthz."""

    host: str = "127.0.0.1"
    """Address to serve on."""
    port: int | None = Field(None, ge=0, le=65_535)
    """Port to serve on. Default: $PORT, which honcho sets; without both nothing is served."""
    stale_seconds: float = Field(60.0, gt=0)
    """/healthz answers 503 when the last step or loop is older than this."""
    page: bool = True
    """trainer: serve the report at / while the run goes on."""


ALTERNATIVES = (
    ("steps", "epochs"),
    ("task.hub", "task.path"),
    ("task.dev_shots", "task.dev_share"),
    ("backbone.hub", "backbone.path"),
    ("restarts.request_every", "restarts.epochs"),
)
"""Settings for the same thing. The second counts if one layer sets both; the first, set in a later layer, drops it."""


@dataclass(frozen=True)
class Effect:
    """Settings that have an effect only where one of `needs` has one of its values."""

    needs: Mapping[str, tuple[str | None, ...]]
    names: tuple[str, ...]
    alone: bool = False
    """Refused only where one layer sets both: arms of a comparison differ in these, with all else equal."""


EFFECTS = (
    Effect(
        {"backbone.family": ("dual_encoder",)}, ("backbone.temperature", "backbone.label_position", "backbone.augment")
    ),
    Effect({"backbone.family": ("dual_encoder",)}, ("backbone.num_workers", "backbone.features", "backbone.library")),
    Effect({"task.format": ("image",)}, ("backbone.library",)),
    Effect({"backbone.library": ("open_clip",)}, ("backbone.pretrained",)),
    Effect({"backbone.path": (None,)}, ("backbone.pretrained",)),
    Effect(
        {"backbone.library": ("transformers",)},
        ("backbone.attention", "backbone.device_map", "backbone.quantization"),
    ),
    Effect({"backbone.family": ("encoder", "decoder")}, ("optimizer.micro_batch",)),
    Effect({"backbone.family": ("encoder",)}, ("backbone.pooling", "backbone.dropout")),
    Effect({"backbone.family": ("decoder",)}, ("backbone.template",)),
    Effect({"task.format": ("text",)}, ("task.text", "task.text2")),
    Effect({"task.format": ("text", "image")}, ("task.label",)),
    Effect({"task.format": ("image",)}, ("task.image", "backbone.augment")),
    Effect({"task.path": (None,), "task.format": ("text",)}, ("task.label",)),  # folders of images name the classes
    Effect({"task.path": (None,)}, ("task.image",)),
    Effect({"task.path": (None,), "task.format": ("image",)}, ("task.config",)),
    Effect({"prompt.init": ("words",)}, ("prompt.words",)),
    Effect({"restarts.mode": ("sync",)}, ("restarts.sync_wait_seconds",), alone=True),
    Effect({"restarts.source": ("bus",)}, ("restarts.sync_wait_seconds", "restarts.digest"), alone=True),
    Effect({"restarts.policy": ("trial", "none")}, ("restarts.max_challengers", "restarts.queue_size"), alone=True),
    Effect({"restarts.policy": ("trial", "none"), "restarts.source": ("bus",)}, ("restarts.patience",), alone=True),
)
"""Settings without effect are refused. Policy none is documented to ignore the rest of its section."""


class Settings(Section):
    """All settings of a run, layered: `recipe`, then the keywords.

    Sections are given as mappings or as section objects, of which the values set count. Wrong values raise `UserError`.
    """

    recipe: CliPositionalArg[str] = "demo"
    """A packaged recipe, or a TOML file that may build on one with recipe = "NAME". Default: $TANDEM_RECIPE, then
    demo."""
    name: Name | None = None
    """The run's directory in `folder`. Default: RECIPE-sSEED, with a number if that is in use."""
    folder: Location = "runs"
    """Directory of all runs."""
    seed: int = Field(1, ge=0, le=MAX_SEED)
    """Seed of the examples, the batches and a random initial prompt."""
    steps: int = Field(400, gt=0)
    """The budget in lane-steps: one step of one lane costs one."""
    epochs: int | None = Field(None, gt=0)
    """The budget in passes of one lane over the training rows. Of steps and epochs the one set later counts, and epochs
    if both are set together."""
    num_evals: int = Field(10, gt=0)
    """Number of evaluations on the development split, evenly over the budget."""
    average: bool = True
    """Let the result be the mean of several good lanes unless the development split speaks against it."""
    baseline: bool = False
    """Also run plain prompt tuning for the same number of lane-steps, and if proposals come from the bus, restarts from
    random words; report both."""
    device: Device = "auto"
    """Device of the backbone: auto (the best there is), cpu, cuda, cuda:0, cuda:1, ... or mps."""
    threads: int | None = Field(None, gt=0, le=1024)
    """CPU threads of the trainer. Default: one for each core, which wait for each other only briefly."""
    track: list[str] = []
    """Trackers that follow the run, each with its package installed: tensorboard, wandb, mlflow, trackio or another of
    accelerate.tracking."""

    task: TaskSettings = TaskSettings()
    backbone: BackboneSettings = BackboneSettings()
    prompt: PromptSettings = PromptSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    restarts: RestartSettings = RestartSettings()
    bus: BusSettings = BusSettings()
    proposer: ProposerSettings = ProposerSettings()
    metrics: MetricsSettings = MetricsSettings()

    @model_validator(mode="wrap")
    @classmethod
    def _join_layers(cls, values: Any, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo) -> Self:
        """Validate the layers in the context, or those of keywords, and explain what is wrong in one line."""
        if isinstance(values, Settings):
            return handler(values)
        layers: Sequence[Layer] = info.context or _keyword_layers(values)
        try:
            settings = handler(join(layers, ALTERNATIVES))
        except ValidationError as error:
            raise UserError(explain(error, layers)) from None
        _check_together(settings)
        _check_effects(settings, layers)
        return settings


def _keyword_layers(values: dict[str, Any]) -> list[Layer]:
    given = {
        key: value.model_dump(exclude_unset=True) if isinstance(value, BaseModel) else value
        for key, value in values.items()
    }
    recipe = given.pop("recipe", "demo")
    return [*file_layers(str(recipe)), Layer("a keyword", given)]


def _check_together(settings: Settings) -> None:
    """Refuse values that are each allowed but impossible together."""
    family = settings.backbone.family
    if settings.task.labels and len(set(settings.task.labels.values())) < 2:
        raise UserError("task.labels names fewer than two classes")
    if settings.prompt.frozen and family != "encoder":
        raise UserError("prompt.frozen leaves nothing to train; only backbone.family = 'encoder' has a head")
    if settings.prompt.per_class and family != "dual_encoder":
        raise UserError("prompt.per_class needs class texts; only backbone.family = 'dual_encoder' has them")


def _check_effects(settings: Settings, layers: Sequence[Layer]) -> None:
    """Refuse what was set explicitly, to another value than its default, and has no effect."""
    for effect in EFFECTS:
        if any(attrgetter(decider)(settings) in values for decider, values in effect.needs.items()):
            continue
        decided = max(setter(decider.split("."), layers) or 0 for decider in effect.needs)
        for name in effect.names:
            section, key = name.split(".")
            path = (section, key)
            at = setter(path, layers)
            if at is None or attrgetter(name)(settings) == getattr(Settings.model_fields[section].default, key):
                continue
            checked = "alone" if effect.alone and layers[at].checked == "always" else layers[at].checked
            if checked == "always" or (checked == "alone" and decided <= at):
                raise UserError(_without_effect(name, effect, settings, layers))


def _without_effect(name: str, effect: Effect, settings: Settings, layers: Sequence[Layer]) -> str:
    found = [
        f"{decider} = {attrgetter(decider)(settings)!r} ({origin(decider.split('.'), layers)})"
        for decider in effect.needs
    ]
    needs = [
        f"without {decider}" if values == (None,) else f"with {decider} = {' or '.join(map(repr, values))}"
        for decider, values in effect.needs.items()
    ]
    return (
        f"{name} ({origin(name.split('.'), layers)}) has no effect with {' and '.join(found)}, "
        f"only {' or '.join(needs)}; remove it"
    )
