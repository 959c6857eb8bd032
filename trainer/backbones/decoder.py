"""Decoder: a causal language model reads prompt and text, and label words are its answer.

A sequence is `[prompt] [template with the example's columns] [label words]`; the prompt stands before
everything, also before the start token, as in PEFT. A class scores the log-probability that its label words are the
answer.
"""

import io
import sys
from collections.abc import Callable
from contextlib import nullcontext, redirect_stderr
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import MODEL_FOR_MASKED_LM_MAPPING, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from shared.errors import UserError
from shared.settings import BackboneSettings, Format, PromptSettings
from trainer.backbones.cuda_graphs import CudaGraphs
from trainer.backbones.frozen_linear import use_onednn
from trainer.backbones.fused_norm import use_fused_norm
from trainer.backbones.llama_last_layer import read_last
from trainer.backbones.model_files import SAFE, check_files, check_loaded, refusing, setting_of
from trainer.backbones.model_inputs import check_tokenizer, max_positions, token_embeddings
from trainer.backbones.model_options import freeze, load_options
from trainer.backbones.passes import max_pass_positions, original_order, run_chunks
from trainer.backbones.probe import own_pass, probe
from trainer.backbones.stack import Stack, stack
from trainer.backbones.template import Template
from trainer.backbones.tokenized import TokenizedBatch
from trainer.backbones.verbalizer import Verbalizer
from trainer.backbones.vocabulary import Vocabulary
from trainer.progress import track
from trainer.tasks.examples import Example

TEXTS = 256
"""Examples tokenised at a time."""

POSITIONS = 8192
"""Positions in one call of a kernel, over all its sequences; more gain no speed."""


class Decoder:
    """A frozen causal language model with label words for classes."""

    peft_task = "CAUSAL_LM"
    num_contexts = 1

    def __init__(
        self,
        settings: BackboneSettings,
        prompt: PromptSettings,
        labels: list[str],
        format: Format,
        device: torch.device,
    ) -> None:
        """Load model and tokenizer; `labels` are the words that name the classes.

        Raises:
            UserError: no such model, a prompt cannot drive it, or template, labels or format do not suit it.
        """
        if format in ("copa", "image"):
            raise UserError(
                f"family decoder scores label words, but task.format = {format!r} has none; use another family"
            )
        options = load_options(settings, device)
        dtype = options["dtype"]
        tokenizer, self._model = _load(settings, options)
        freeze(self._model, settings, device)
        use_onednn(self._model)
        use_fused_norm(self._model)
        self._embed = self._model.get_input_embeddings()
        self.device = self._embed.weight.device
        self.vocabulary = Vocabulary(tokenizer, token_embeddings(settings, self._model))
        check_tokenizer(settings, tokenizer, self.vocabulary, allow_special=True)
        self._template = Template(settings.template, tokenizer, len(self.vocabulary.embeddings))
        self._verbalizer = Verbalizer({label: self._template.continuation(label) for label in labels}, self.device)
        self._max_tokens = self._max_text_tokens(settings, prompt)
        self._reader = read_last(self._model, self._verbalizer.nodes)
        self._memory_positions = max_pass_positions(self._model.config, self.device, dtype, settings.checkpointing)
        self._run = CudaGraphs(self._node_logits, settings, self.device)
        self._probe(settings, dtype)

    def _max_text_tokens(self, settings: BackboneSettings, prompt: PromptSettings) -> int:
        """The most tokens of a text between the longest prompt and the longest label.

        Raises:
            UserError: no room is left for a text.
        """
        window = _window(self._model)
        tokens = min(settings.max_tokens, window - prompt.num_tokens - self._verbalizer.depth)
        if tokens < 1:
            raise UserError(
                f"{setting_of(settings)} reads {window} positions: prompt.num_tokens = {prompt.num_tokens} and "
                f"{self._verbalizer.depth} tokens of label words (task.labels) leave no room for a text"
            )
        return tokens

    def _probe(self, settings: BackboneSettings, dtype: torch.dtype) -> None:
        """Refuse a model whose logits behind prompt and text are not its own for the same tokens.

        Raises:
            UserError: it is one.
        """
        words = list(self.vocabulary.words)[:3]
        texts = [words, words[:1]]
        deepest = self._verbalizer.deepest
        with own_pass(settings):
            paths = [[*words, *text, *answer] for text in texts for answer in ((), deepest)]
            own = [self._model(input_ids=torch.tensor([ids], device=self.device)).logits[0, -1] for ids in paths]

        def read(vectors: Tensor) -> Tensor:
            batch = TokenizedBatch([torch.tensor(text) for text in texts])
            return self._run(*self._lay_out(stack([vectors]), batch))[:, [0, -1]].flatten(0, 1)

        probe(settings, self.vocabulary.vectors(words), read, torch.stack(own), dtype)

    def prepare(self, examples: list[Example], what: str, beat: Callable[[], None]) -> TokenizedBatch:
        """Fill and tokenise the template; `what` names the progress bar, `beat` is called after each chunk."""
        ids: list[list[int]] = []
        for start in track(range(0, len(examples), TEXTS), f"tokenising {what}"):
            ids += self._template.encode(examples[start : start + TEXTS], self._max_tokens)
            beat()
        return TokenizedBatch([torch.tensor(row) for row in ids])

    def lengths(self, rows: TokenizedBatch) -> Tensor:
        """Tokens of each example, [examples]."""
        return rows.lengths

    def micro_batch(self, stack: Stack, rows: TokenizedBatch) -> int:
        """Rows that one call of a kernel takes."""
        budget, extra = self._pass_positions(stack)
        return max(1, budget // (int(rows.lengths.max()) + extra))

    def _pass_positions(self, stack: Stack) -> tuple[int, int]:
        """Positions in one pass for each lane, and how many of them a row has in addition to its text."""
        lanes, longest, _ = stack.prompts.shape
        return min(POSITIONS, self._memory_positions) // lanes, longest + self._verbalizer.nodes - 1

    def new_head(self, seed: int) -> dict[str, Tensor]:  # noqa: ARG002
        """Empty: only the prompt is trained."""
        return {}

    def peft_base(self) -> PreTrainedModel:
        """The causal language model as it was loaded."""
        base: PreTrainedModel = self._model
        return base

    def logits(self, stack: Stack, rows: TokenizedBatch, training: bool = False) -> Tensor:  # noqa: ARG002
        """Log-probabilities of the label words, [lanes, examples, classes], float32."""
        chunks = list(rows.chunks(*self._pass_positions(stack)))
        order = original_order(chunks, self.device)
        scores = run_chunks(lambda chunk: self._scores(stack, rows[chunk]), chunks)
        return torch.cat(scores, dim=1)[:, order]

    def _scores(self, stack: Stack, rows: TokenizedBatch) -> Tensor:
        """The scores [lanes, rows, classes] of rows that share a pass."""
        logits = self._run(*self._lay_out(stack, rows))
        return self._verbalizer.scores(logits).view(len(stack.prompts), len(rows), -1)

    def _lay_out(self, stack: Stack, rows: TokenizedBatch) -> tuple[Tensor, Tensor]:
        """Input embeddings [lanes * rows, longest, dim] of [padding] [prompt] [text], and lengths [lanes * rows]."""
        lanes, examples = len(stack.prompts), len(rows)
        ids, text_mask = (part.to(self.device) for part in rows.pad(0))
        texts = self._embed(ids).expand(lanes, -1, -1, -1)
        prompts = stack.prompts.to(texts.dtype)[:, None].expand(-1, examples, -1, -1)
        embeds = torch.cat([prompts, texts], dim=2).flatten(0, 1)
        prompt_mask = stack.mask[:, None].expand(-1, examples, -1)
        mask = torch.cat([prompt_mask, text_mask.expand(lanes, -1, -1)], dim=2).flatten(0, 1)
        order = mask.sort(dim=1, stable=True).indices  # padding first, so that all texts end at one position
        length = mask.shape[1] + self._verbalizer.nodes - 1
        embeds = embeds.gather(1, order[..., None].expand_as(embeds))
        if front := self._run.length(length, sys.maxsize) - length:  # padding by nothing would be a copy
            embeds = pad(embeds, (0, 0, front, 0))
        return embeds, mask.sum(1)

    def _node_logits(self, embeds: Tensor, lengths: Tensor) -> Tensor:
        """Logits [rows, nodes, vocabulary] of the label tree's nodes, which stand behind each sequence.

        Args:
            embeds: sequences [rows, longest, dim], padded in front.
            lengths: of these without padding, [rows].
        """
        (rows, longest, dim), tree = embeds.shape, self._verbalizer
        mask = torch.arange(longest, device=self.device) >= longest - lengths[:, None]
        logits: Tensor = self._reader(
            inputs_embeds=torch.cat([embeds, self._embed(tree.tokens).expand(rows, -1, dim)], dim=1),
            attention_mask=_attention(mask, tree.sees, embeds.dtype),
            position_ids=torch.cat([(mask.cumsum(1) - 1).clamp(min=0), lengths[:, None] + tree.depths - 1], dim=1),
            use_cache=False,
            logits_to_keep=tree.nodes,
        ).logits
        return logits


def _attention(mask: Tensor, sees: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to attention scores, [rows, 1, length, length]: 0 where a position reads another, else the least.

    `mask` [rows, longest] is false at padding; behind these positions stand nodes that read each other as `sees` says.
    """
    rows, longest = mask.shape
    length = longest + len(sees)
    reads = torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()
    reads[longest:, longest:] = sees
    keys = torch.cat([mask, mask.new_ones(rows, len(sees))], dim=1)
    itself = torch.eye(length, dtype=torch.bool, device=mask.device)  # or padding, which reads nothing, gives NaN
    unread = ~(reads & keys[:, None] | itself)
    added = torch.zeros(unread.shape, dtype=dtype, device=mask.device)
    return added.masked_fill(unread, torch.finfo(dtype).min)[:, None]


def _load(settings: BackboneSettings, options: dict[str, Any]) -> tuple[Any, Any]:
    """Tokenizer and model, from a folder, a .gguf file or the hub."""
    name, gguf = check_files(settings), {}
    if name.endswith(".gguf"):
        name, gguf = str(Path(name).parent), {"gguf_file": Path(name).name}
    what, hint = "cannot be loaded as a causal language model", "copy the model again or choose another"
    load: Any = AutoModelForCausalLM.from_pretrained  # whose types leave out what output_loading_info adds
    # transformers shows a bar of its own for GGUF, on a terminal or not
    with redirect_stderr(io.StringIO()) if gguf else nullcontext():
        with refusing(settings, f"{what}, its tokenizer", hint):
            tokenizer = AutoTokenizer.from_pretrained(name, **gguf, **SAFE)
        with refusing(settings, what, hint):
            checks = {"output_loading_info": True, "ignore_mismatched_sizes": True}
            model, found = load(name, **options, **checks, **gguf, **SAFE)
    if type(model.config) in MODEL_FOR_MASKED_LM_MAPPING:
        raise UserError(f"{setting_of(settings)} is an encoder; use family encoder or dual_encoder")
    if not tokenizer.is_fast:
        raise UserError(f"{setting_of(settings)} has no fast tokenizer (tokenizer.json); choose a model that has one")
    check_loaded(settings, model, found)
    return tokenizer, model


def _window(model: Any) -> int:
    """The most positions of which every one can read all before it."""
    return min(max_positions(model), getattr(model.config.get_text_config(), "sliding_window", None) or sys.maxsize)
