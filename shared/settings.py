"""Every setting of the trainer and the proposer, in one schema.

Layers, each over the one before: these defaults, a packaged recipe, a TOML file of the user's,
the environment (`TANDEM_STEPS`, `TANDEM_TASK__SHOTS`), the command line (`--task.shots 8`).
`shared.layers` reads them. The text under a field is its help.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic_settings import BaseSettings, CliPositionalArg, SettingsConfigDict

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
Endpoint = Annotated[str, StringConstraints(pattern=r"^(tcp|ipc)://.+$")]


class Section(BaseModel):
    """Settings that belong together."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, frozen=True, allow_inf_nan=False)


class TaskSettings(Section):
    """The examples to learn from."""

    path: str | None = None
    """Folder with train, test and optionally dev (or validation) files, .jsonl, .csv or .parquet; or
    package:NAME/FOLDER. Wins over hub."""
    hub: str | None = None
    """Hub name of a data set, used when there is no path."""
    text: str = "text"
    """Column with the text."""
    label: str = "label"
    """Column with the label."""
    labels: dict[str, Annotated[str, StringConstraints(max_length=200)]] = {}
    """Raw label to the words that name it, in the order of the classes. Several raw labels may share words.
    Empty: the labels found in the data name themselves."""
    describe: Annotated[str, StringConstraints(max_length=2000)] = "Classify the text."
    """One line that tells the LLM what the task is."""
    shots: int = Field(16, gt=0)
    """Training examples of each class."""
    dev_shots: int = Field(16, gt=0)
    """Development examples of each class; fitness is measured on them and they are never reported as test."""
    test_rows: int | None = Field(None, gt=0)
    """Use only so many test rows, drawn by seed 0. Default: all."""


class BackboneSettings(Section):
    """The frozen model."""

    path: str | None = None
    """Folder of the model as transformers saves it; or package:NAME/FOLDER. Wins over hub."""
    hub: str | None = "sentence-transformers/all-MiniLM-L6-v2"
    """Hub name of the model, used when there is no path."""
    family: Literal["dual_encoder"] = "dual_encoder"
    """How the prompt meets the model: dual_encoder puts it into the class texts."""
    label_position: Literal["end", "middle", "front"] = "end"
    """Where the label words stand in a class text."""
    temperature: float = Field(0.05, gt=0)
    """Cosine similarities are divided by this before the softmax."""
    max_tokens: int = Field(128, gt=2)
    """Examples are cut at this many tokens."""


class PromptSettings(Section):
    """The soft prompt and its start."""

    tokens: int = Field(8, gt=0, le=256)
    """Longest prompt, in tokens. A prompt started from fewer tokens keeps its own length."""
    init: Literal["words", "vocabulary", "random"] = "words"
    """Start from words, from words drawn at random from the vocabulary, or from Gaussian noise."""
    words: str = "a text about"
    """The words to start from when init is words."""
    projection: Literal["cosine", "l2"] = "cosine"
    """How the words nearest to a prompt are found."""


class OptimizerSettings(Section):
    """Gradient descent."""

    lr: float = Field(2e-3, gt=0)
    """AdamW's learning rate."""
    weight_decay: float = Field(0.01, ge=0)
    """AdamW's weight decay."""
    batch: int = Field(32, gt=0)
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
    every: int = Field(100, gt=0)
    """Lane-steps from one request for proposals to the next; the first is made before the first step."""
    candidates: int = Field(12, gt=0, le=64)
    """Prompts asked for in one request."""
    challengers: int = Field(3, gt=0, le=8)
    """Most lanes that train beside the incumbent."""
    queue: int = Field(8, gt=0, le=64)
    """Measured candidates that wait for their trial; worse ones are dropped."""
    trial_steps: int = Field(40, gt=0)
    """Steps that a challenger trains before it is judged."""
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
    kind: Literal["auto", "instruct", "continue"] = "auto"
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
    slots: int = Field(1, gt=0, le=64)
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
    evaluations: int = Field(10, gt=0)
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
        return self
