"""Decoder: a causal language model reads prompt and text, and label words are its answer.

A sequence is `[prompt] [template with the example's columns] [label words]`; the prompt stands before
everything, also before the token that begins a text, as in PEFT. A class scores the log-probability of
its label words.
"""

import inspect
import io
import sys
from collections.abc import Callable
from contextlib import nullcontext, redirect_stderr
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import MODEL_FOR_MASKED_LM_MAPPING, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from shared.errors import UserError, first_line
from shared.settings import BackboneSettings, Format
from trainer.backbones.backbone import frozen_dtype
from trainer.backbones.llama_last_layer import read_last
from trainer.backbones.stack import Stack
from trainer.backbones.template import Template
from trainer.backbones.tokenized import TokenizedBatch
from trainer.backbones.verbalizer import Verbalizer
from trainer.backbones.vocabulary import Vocabulary
from trainer.paths import find_model
from trainer.progress import track
from trainer.tasks.examples import Example

TEXTS = 256
"""Examples tokenised at a time."""

POSITIONS = 8192
"""Most positions in one pass, over all its sequences."""


class Decoder:
    """A frozen causal language model with label words for classes."""

    peft_task = "CAUSAL_LM"
    num_contexts = 1

    def __init__(self, settings: BackboneSettings, labels: list[str], format: Format, device: torch.device) -> None:
        """Load model and tokenizer; `labels` are the words that name the classes.

        Raises:
            UserError: there is no such model, or template, labels or form do not suit it.
        """
        if format in ("copa", "image"):
            raise UserError(f"family decoder scores label words, which form {format} has none of; use another family")
        self.device = device
        tokenizer, self._model = _load(settings, frozen_dtype(device))
        self._model.to(device).eval().requires_grad_(False)
        self._embed = self._model.get_input_embeddings()
        self._template = Template(settings.template, tokenizer, settings.max_tokens)
        words = {label: self._template.continuation(label) for label in labels}
        self._verbalizer = Verbalizer(words, device)
        self._reader = read_last(self._model, self._verbalizer.nodes)
        self._window = _window(self._model.config.get_text_config())
        self.vocabulary = Vocabulary(tokenizer, _vectors(self._embed))

    def prepare(self, examples: list[Example], what: str, beat: Callable[[], None]) -> TokenizedBatch:
        """Fill and tokenise the template; `what` names the examples on the progress bar, `beat` is called often."""
        ids: list[list[int]] = []
        for start in track(range(0, len(examples), TEXTS), f"tokenising {what}"):
            ids += self._template.encode(examples[start : start + TEXTS])
            beat()
        return TokenizedBatch([torch.tensor(row) for row in ids])

    def lengths(self, rows: TokenizedBatch) -> Tensor:
        """Tokens of each example, [examples]."""
        return rows.lengths

    def new_head(self, seed: int) -> dict[str, Tensor]:  # noqa: ARG002
        """Empty: nothing but the prompt is trained."""
        return {}

    def peft_base(self) -> PreTrainedModel:
        """The causal language model as it was loaded."""
        base: PreTrainedModel = self._model
        return base

    def logits(self, stack: Stack, rows: TokenizedBatch, training: bool = False) -> Tensor:  # noqa: ARG002
        """Log-probabilities of the label words, [lanes, examples, classes], float32."""
        lanes, around = len(stack.prompts), stack.prompts.shape[1] + self._verbalizer.nodes - 1
        chunks = list(rows.chunks(POSITIONS // lanes, around))
        scores = torch.cat([self._scores(stack, rows[chunk]) for chunk in chunks], dim=1)
        return scores[:, torch.cat(chunks).argsort()]

    def _scores(self, stack: Stack, rows: TokenizedBatch) -> Tensor:
        """The logits of rows that share a pass: [padding] [prompt] [text] [nodes of the label words]."""
        lanes, examples = len(stack.prompts), len(rows)
        ids, own = (part.to(self.device) for part in rows.pad(0))
        texts = self._embed(ids).expand(lanes, -1, -1, -1)
        prompts = stack.prompts.to(texts.dtype)[:, None].expand(-1, examples, -1, -1)
        embeds = torch.cat([prompts, texts], dim=2).flatten(0, 1)
        mask = torch.cat([stack.mask[:, None].expand(-1, examples, -1), own.expand(lanes, -1, -1)], dim=2).flatten(0, 1)
        order = mask.sort(dim=1, stable=True).indices  # padding first, so that all texts end at one position
        embeds = embeds.gather(1, order[..., None].expand_as(embeds))
        return self._read(embeds, mask.sum(1)).view(lanes, examples, -1)

    def _read(self, embeds: Tensor, lengths: Tensor) -> Tensor:
        """Class scores [rows, classes] of sequences [rows, longest, dim], each in the last of `lengths` positions."""
        (rows, longest, dim), tree = embeds.shape, self._verbalizer
        if longest + tree.depth > self._window:
            raise UserError(
                f"{longest + tree.depth} tokens of prompt, text and label words are more than the {self._window} "
                "that the model reads; lower backbone.max_tokens or prompt.num_tokens"
            )
        own = torch.arange(longest, device=self.device) >= longest - lengths[:, None]
        logits = self._reader(
            inputs_embeds=torch.cat([embeds, self._embed(tree.tokens).expand(rows, -1, dim)], dim=1),
            attention_mask=_attention(own, tree.sees, embeds.dtype),
            position_ids=torch.cat([(own.cumsum(1) - 1).clamp(min=0), lengths[:, None] + tree.depths - 1], dim=1),
            use_cache=False,
            logits_to_keep=tree.nodes,
        ).logits
        return tree.scores(logits)


def _attention(own: Tensor, sees: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to attention scores, [rows, 1, length, length]: 0 where a position reads another, else the least.

    `own` [rows, longest] is false at padding; behind these positions stand nodes that read each other as `sees` says.
    """
    rows, longest = own.shape
    length = longest + len(sees)
    reads = torch.ones(length, length, dtype=torch.bool, device=own.device).tril()
    reads[longest:, longest:] = sees
    there = torch.cat([own, own.new_ones(rows, len(sees))], dim=1)
    itself = torch.eye(length, dtype=torch.bool, device=own.device)  # or padding, which reads nothing, gives NaN
    unread = ~(reads & there[:, None] | itself)
    added = torch.zeros(unread.shape, dtype=dtype, device=own.device)
    return added.masked_fill(unread, torch.finfo(dtype).min)[:, None]


def _load(settings: BackboneSettings, dtype: torch.dtype) -> tuple[Any, Any]:
    """Tokenizer and model, from a folder, a .gguf file or the hub."""
    name, options = find_model(settings), {}
    if name.endswith(".gguf"):
        name, options = str(Path(name).parent), {"gguf_file": Path(name).name}
    said = f"backbone.path = {settings.path!r}" if settings.path else f"backbone.hub = {settings.hub!r}"
    loader: Any = AutoModelForCausalLM  # whose types leave out what output_loading_info adds
    # transformers shows a bar of its own for GGUF, on a terminal or not
    with redirect_stderr(io.StringIO()) if options else nullcontext():
        try:
            tokenizer = AutoTokenizer.from_pretrained(name, **options)
            model, found = loader.from_pretrained(name, dtype=dtype, output_loading_info=True, **options)
        except (ImportError, OSError, ValueError, SafetensorError) as error:
            raise UserError(f"{said} cannot be loaded as a causal language model: {first_line(error)}") from None
    if type(model.config) in MODEL_FOR_MASKED_LM_MAPPING:
        raise UserError(f"{said} is an encoder; use family encoder or dual_encoder")
    if found["missing_keys"]:
        raise UserError(f"{said} lacks weights of its model, such as {min(found['missing_keys'])}")
    if not _attends(model):
        raise UserError(f"{said} reads texts in another way than by attention and positions; use another model")
    return tokenizer, model


def _attends(model: Any) -> bool:
    """Whether the model takes positions and a mask for all its layers, as state-space layers and ALiBi do not."""
    kinds = getattr(model.config.get_text_config(), "layer_types", None) or []
    positions = "position_ids" in inspect.signature(model.forward).parameters
    return positions and all(kind in ("full_attention", "sliding_attention") for kind in kinds)


def _vectors(embed: Any) -> Tensor:
    """What the tokens are to the model, [vocabulary, dim], float32; some models scale their embeddings."""
    if type(embed) is nn.Embedding:
        return embed.weight.detach().float()
    vectors: Tensor = embed(torch.arange(embed.num_embeddings, device=embed.weight.device))
    return vectors.detach().float()


def _window(config: Any) -> int:
    """The most positions of which every one can read all before it."""
    limits = (getattr(config, name, None) for name in ("max_position_embeddings", "sliding_window"))
    return min((limit for limit in limits if limit), default=sys.maxsize)
