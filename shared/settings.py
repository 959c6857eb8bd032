"""Every setting of the trainer and the proposer, in one schema.

Layers, each over the one before: these defaults, a packaged recipe, a TOML file of the user's,
the environment (`TANDEM_STEPS`, `TANDEM_TASK__SHOTS`), the command line (`--task.shots 8`).
`shared.config` reads them. The text under a field is its help.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic_settings import BaseSettings, CliPositionalArg, SettingsConfigDict

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
TextFormat = Literal["text", "boolq", "cb", "copa", "multirc", "record", "rte", "wic", "wsc"]
GlueFormat = Literal["cola", "sst2", "mrpc", "qqp", "mnli", "qnli", "wnli"]
Format = TextFormat | GlueFormat | Literal["image"]
Projection = Literal["cosine", "l2"]
Endpoint = Annotated[str, StringConstraints(pattern=r"^(tcp|ipc)://.+$")]


class Section(BaseModel):
    """Settings that belong together."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, frozen=True, allow_inf_nan=False)


class TaskSettings(Section):
    """The examples to learn from."""

    path: str | None = None
    """Folder with the data; or package:NAME/FOLDER. Wins over hub. Text: train, test, dev (or validation, val) files,
    .jsonl, .csv or .parquet. Images: a folder for each split with a folder for each class, or a set as CoOp lays
    it out."""
    hub: str | None = None
    """Hub name of a data set, used when there is no path."""
    config: str | None = None
    """Which of the hub's data sets under that name, for example rte of aps/super_glue."""
    format: Format = "text"
    """What a row is: text (one column, or two with task.text2), a task of SuperGLUE or GLUE, or an image."""
    text: str = "text"
    """Column with the text, when form is text."""
    text2: str | None = None
    """Column with a second text that stands beside the first, when form is text."""
    image: str = "image"
    """Column with the image, when form is image and the data comes from the hub."""
    label: str = "label"
    """Column with the label, when form is text or image."""
    labels: dict[str, Annotated[str, StringConstraints(max_length=200)]] = {}
    """Raw label to the words that name it, in the order of the classes. Several raw labels may share words.
    Empty: the form's own, or the labels found in the data name themselves."""
    description: Annotated[str, StringConstraints(max_length=2000)] = "Classify the text."
    """One line that tells the LLM what the task is."""
    shots: Literal["all"] | Annotated[int, Field(gt=0)] = 16
    """Training examples of each class; all takes every row."""
    dev_shots: int = Field(16, gt=0)
    """Development examples of each class; fitness is measured on them and they are never reported as test."""
    dev_share: float | None = Field(None, gt=0, lt=1)
    """Cut this share of the training rows for development, instead of dev_shots a class."""
    report: Literal["test", "validation", "third"] = "test"
    """What is reported at the end: the test rows; the validation rows, where the labels of test are secret
    (development rows then come from training); or a third of all rows, drawn by seed 0, where one file is all there
    is."""
    test_rows: int | None = Field(None, gt=0)
    """Use only so many of the reported rows, drawn by seed 0. Default: all."""


class BackboneSettings(Section):
    """The frozen model."""

    path: str | None = None
    """Folder of the model as transformers saves it, or a .gguf file; or package:NAME/FOLDER. Wins over hub."""
    hub: str | None = "sentence-transformers/all-MiniLM-L6-v2"
    """Hub name of the model, used when there is no path."""
    family: Literal["dual_encoder", "encoder", "decoder"] = "dual_encoder"
    """How the prompt meets the model: dual_encoder puts it into the class texts (sentence encoders, CLIP, SigLIP);
    encoder in front of the text, under a trainable head; decoder in front of the text, and label words answer."""
    max_tokens: int = Field(128, gt=2)
    """Examples are cut at this many tokens."""
    temperature: float | None = Field(None, gt=0)
    """dual_encoder: cosine similarities are divided by this before the softmax. Default: as the model was trained,
    or 0.05 where it does not say."""
    label_position: Literal["end", "middle", "front"] = "end"
    """dual_encoder: where the label words stand in a class text."""
    augment: bool = False
    """dual_encoder of images: train on random crops and mirror images, as CoOp does. Otherwise images are encoded
    once."""
    pooling: Literal["prompt", "text"] = "prompt"
    """encoder: the position that the head reads, the prompt's first (as PEFT pools) or the text's first token."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """encoder: dropout inside the frozen model while training."""
    template: Annotated[str, StringConstraints(max_length=2000)] = "{text}\nAnswer:"
    """decoder: what stands between prompt and label words; {text}, {text2} or any column of the data in braces."""


class PromptSettings(Section):
    """The soft prompt and its start."""

    num_tokens: int = Field(8, gt=0, le=256)
    """Longest prompt, in tokens. A prompt started from fewer tokens keeps its own length."""
    init: Literal["words", "vocabulary", "random"] = "words"
    """Start from words, from words drawn at random from the vocabulary, or from Gaussian noise."""
    words: str = "a text about"
    """The words to start from when init is words."""
    projection: Projection = "cosine"
    """How the words nearest to a prompt are found."""
    per_class: bool = False
    """dual_encoder: every class has a prompt of its own, as CoOp's class-specific contexts."""
    frozen: bool = False
    """encoder: leave the prompt as it starts and train the head alone; a control."""


class OptimizerSettings(Section):
    """Gradient descent."""

    name: Literal["adamw", "sgd"] = "adamw"
    """adamw, or sgd with momentum 0.9."""
    lr: float = Field(2e-3, gt=0)
    """Learning rate."""
    weight_decay: float = Field(0.01, ge=0)
    """Weight decay."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate goes from lr to 0 over the budget."""
    warmup_epochs: int = Field(0, ge=0)
    """Passes over the training rows at a learning rate of 1e-5 before lr."""
    batch_size: int = Field(32, gt=0)
    """Examples in a step."""


class RestartSettings(Section):
    """When and how proposals become restart points."""

    policy: Literal["trial", "greedy", "always", "none"] = "trial"
    """trial: the best candidate trains beside the incumbent and is adopted only if it wins; greedy: adopted at
    once if it scores better; always: replaces the incumbent unconditionally; none: plain prompt tuning."""
    source: Literal["bus", "random", "vocabulary"] = "bus"
    """Who proposes: LLM proposers on the bus, or the controls random (noise) and vocabulary (random words)."""
    mode: Literal["async", "sync"] = "async"
    """async never waits for a proposal; sync waits at fixed rounds."""
    request_every: int = Field(100, gt=0)
    """Lane-steps from one request for proposals to the next; the first is made before the first step."""
    epochs: list[Annotated[int, Field(gt=0)]] = []
    """Ask after these passes over the training rows, in lane-steps of one lane, and at no other time."""
    candidates: int = Field(12, gt=0, le=64)
    """Prompts asked for in one request."""
    max_challengers: int = Field(3, gt=0, le=8)
    """Most lanes that train beside the incumbent."""
    queue_size: int = Field(8, gt=0, le=64)
    """Measured candidates that wait for their trial; worse ones are dropped."""
    trial_steps: int = Field(40, gt=0)
    """Steps that a challenger trains before it is judged."""
    patience: int = Field(1, ge=0)
    """trial: challengers start once so many evaluations in a row brought no lower development loss. Until then each
    step serves the incumbent better. 0: start them as soon as they are there."""
    sync_wait_seconds: float = Field(60.0, gt=0)
    """Longest wait for one proposal in sync mode; after it the run goes on without."""


class BusSettings(Section):
    """The way between trainer and proposers."""

    bind: Endpoint = "tcp://127.0.0.1:5555"
    """Where the trainer listens. Only loopback is allowed without keys."""
    connect: list[Endpoint] = ["tcp://127.0.0.1:5555"]
    """The trainers that a proposer serves."""
    lease_seconds: float = Field(120.0, gt=0)
    """A lease that is not settled by then is void and its slot is leased again."""
    ready_seconds: float = Field(2.0, gt=0)
    """A proposer repeats how much it can take after so many seconds."""
    max_frame_bytes: int = Field(262_144, ge=1024)
    """Longer messages are refused."""


class ProposerSettings(Section):
    """The LLM and how it is asked."""

    model: str = "embedded"
    """embedded, ollama:NAME, openai:NAME, anthropic:NAME, or anything that LangChain's init_chat_model takes."""
    prompt_style: Literal["auto", "instruct", "continue"] = "auto"
    """The meta-prompt: instruct tells a chat model what to do, continue has a small model continue a sorted
    list; auto chooses by the model."""
    base_url: str | None = None
    """Address of a compatible server, for example of Ollama on another host."""
    temperature: float = Field(1.0, ge=0, le=5)
    """The LLM's sampling temperature."""
    max_tokens: int = Field(1024, gt=0)
    """Longest answer of a chat model, in tokens."""
    timeout_seconds: float = Field(60.0, gt=0)
    """A request to the LLM is given up after so long."""
    max_concurrency: int = Field(1, gt=0, le=64)
    """Requests that one proposer keeps under way at once."""
    memory: int = Field(200, ge=0)
    """Outcomes remembered for each run."""
    seed: int | None = Field(None, ge=0)
    """Seeds the LLM where it can be. Default: a new seed each time."""


class MetricsSettings(Section):
    """/metrics for Prometheus and /healthz."""

    host: str = "127.0.0.1"
    """Address to serve on."""
    port: int | None = Field(None, ge=0, le=65_535)
    """Port to serve on. Default: $PORT, which honcho sets; without either nothing is served."""
    stale_seconds: float = Field(60.0, gt=0)
    """/healthz answers 503 when the last step or loop is older than this."""


class Settings(BaseSettings):
    """All settings of a run."""

    model_config = SettingsConfigDict(
        extra="forbid",
        use_attribute_docstrings=True,
        frozen=True,
        allow_inf_nan=False,
        env_prefix="TANDEM_",
        env_nested_delimiter="__",
    )

    recipe: CliPositionalArg[str] = "demo"
    """A packaged recipe, or a TOML file that may build on one with recipe = "NAME". Default: $TANDEM_RECIPE,
    then demo."""
    name: Name | None = None
    """The run's folder inside `folder`. Default: RECIPE-sSEED with a number if that is in use."""
    folder: str = "runs"
    """Where runs are kept."""
    seed: int = Field(1, ge=0)
    """Draws the examples, the batches and a random start."""
    steps: int = Field(400, gt=0)
    """The budget in lane-steps: one step of one lane costs one."""
    epochs: int | None = Field(None, gt=0)
    """The budget as passes of one lane over the training rows. Of steps and epochs the one told later counts, and
    epochs where both are told together."""
    num_evals: int = Field(10, gt=0)
    """How often the development split is measured, evenly over the budget."""
    average: bool = True
    """Let the result be the mean of several good lanes where the development split prefers it."""
    baseline: bool = False
    """Afterwards spend the same lane-steps on plain prompt tuning and report it beside."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where the backbone computes."""
    threads: int | None = Field(None, gt=0)
    """Processor threads of the trainer. Default: torch's."""

    task: TaskSettings = TaskSettings()
    backbone: BackboneSettings = BackboneSettings()
    prompt: PromptSettings = PromptSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    restarts: RestartSettings = RestartSettings()
    bus: BusSettings = BusSettings()
    proposer: ProposerSettings = ProposerSettings()
    metrics: MetricsSettings = MetricsSettings()

    @model_validator(mode="after")
    def check_together(self) -> Self:
        """Refuse values that are each allowed but impossible together."""
        if self.task.labels and len(set(self.task.labels.values())) < 2:
            raise ValueError("task.labels names fewer than two classes")
        if self.prompt.frozen and self.backbone.family != "encoder":
            raise ValueError("prompt.frozen leaves nothing to train; only backbone.family = 'encoder' has a head")
        if self.prompt.per_class and self.backbone.family != "dual_encoder":
            raise ValueError("prompt.per_class needs class texts; only backbone.family = 'dual_encoder' has them")
        return self
