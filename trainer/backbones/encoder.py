"""Encoder: a soft prompt in front of the text, under a trainable classification head.

The layout is that of PEFT's PromptTuning for sequence classification, `[prompt] [CLS] text [SEP] text2 [SEP]` with
positions running on from the prompt (Lester et al. 2021). The head reads the prompt's first position as there, or
the [CLS] behind the prompt, as P-tuning v2 does (Liu et al. 2022).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import pad
from transformers import PreTrainedModel

from shared.errors import UserError
from shared.settings import BackboneSettings, Format, PromptSettings
from trainer.backbones.cuda_graphs import CudaGraphs
from trainer.backbones.encoder_head import cut_head, initialise
from trainer.backbones.encoder_model import load_classifier, load_tokenizer, max_text_tokens
from trainer.backbones.fast_dropout import use_fast_dropout
from trainer.backbones.frozen_linear import use_onednn
from trainer.backbones.labels import check_distinct
from trainer.backbones.model_inputs import check_tokenizer, max_positions, padding_token, token_embeddings
from trainer.backbones.model_options import freeze, load_options
from trainer.backbones.passes import max_kernel_positions, max_pass_positions, original_order, run_chunks
from trainer.backbones.probe import own_pass, probe
from trainer.backbones.read_layer import ReadLayer
from trainer.backbones.stack import Stack, stack
from trainer.backbones.tokenized import TokenizedBatch
from trainer.backbones.vocabulary import Vocabulary
from trainer.progress import track
from trainer.tasks.examples import Example

TOKENISED = 256
"""Texts tokenised at once."""


@dataclass(frozen=True)
class TokenizedPairs:
    """Examples as token ids; each choice of an example is a text; those of one example are adjacent."""

    texts: TokenizedBatch
    first: Tensor
    """[texts], tokens of a text before the second text of a pair."""
    choices: int

    def __len__(self) -> int:
        """How many examples."""
        return len(self.texts) // self.choices

    def __getitem__(self, rows: Tensor) -> "TokenizedPairs":
        """The examples at `rows`, int64 [n]."""
        texts = (rows[:, None] * self.choices + torch.arange(self.choices)).flatten()
        return TokenizedPairs(self.texts[texts], self.first[texts], self.choices)


class Encoder:
    """A frozen encoder with prompts in front and a head for each lane."""

    num_contexts = 1
    peft_task = "SEQ_CLS"

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
            UserError: no such model, it is not an encoder, a prompt cannot drive it, or prompt and text do
                not fit into it.
        """
        if format == "image":
            raise UserError("backbone.family = 'encoder' reads texts, not images; set it to dual_encoder")
        self.settings = settings
        self._choices, self._outputs = (len(labels), 1) if format == "copa" else (1, len(labels))
        self._tokenizer = load_tokenizer(settings)
        self._tokenizer.pad_token = padding_token(self._tokenizer)
        options = load_options(settings, device)
        dtype = options["dtype"]
        model: Any = load_classifier(settings, self._outputs, options)
        freeze(model, settings, device)
        use_onednn(model.base_model)  # not the head, which is trained
        if settings.dropout:
            use_fast_dropout(model.base_model)
        self.device = model.get_input_embeddings().weight.device
        self._max_tokens = max_text_tokens(model, self._tokenizer, settings, prompt)
        self.vocabulary = Vocabulary(self._tokenizer, token_embeddings(settings, model))
        check_tokenizer(settings, self._tokenizer, self.vocabulary)
        _check_labels(labels, self._tokenizer)
        self._memory_positions = max_pass_positions(model.config, self.device, dtype, settings.checkpointing)
        self._body = model.base_model
        self._embeddings = self._body.get_input_embeddings()
        self._typed = (
            getattr(model.config, "type_vocab_size", 0) > 1 and "token_type_ids" in self._tokenizer.model_input_names
        )
        self._max_positions = max_positions(model)
        # One for each mode, because dropout is recorded too.
        self._run = {training: CudaGraphs(self._states, settings, self.device) for training in (False, True)}
        words, texts = self._probe_texts()
        with own_pass(settings):
            # The model itself reads the first position, which is also pooling = "text" without a prompt.
            own = texts if settings.pooling == "text" else [*texts, *(torch.cat([words, ids]) for ids in texts)]
            expected = torch.cat([model(input_ids=ids[None].to(self.device)).logits for ids in own])
            self._read = ReadLayer.cut_from(self._body)
            self._head = cut_head(model).float()  # trained as float32
            self._train(False)
        probe(
            settings, self.vocabulary.vectors(words), lambda prompt: self._probe_scores(prompt, texts), expected, dtype
        )

    def _probe_texts(self) -> tuple[Tensor, list[Tensor]]:
        """Token ids of a prompt in words, and of two texts of different lengths."""
        words = list(self.vocabulary.words.values())
        texts = [" ".join(words[:length]) for length in (3, 1)]
        return torch.tensor(list(self.vocabulary.words)[:2]), [
            torch.tensor(self._tokenizer(text)["input_ids"]) for text in texts
        ]

    def _probe_scores(self, prompt: Tensor, texts: list[Tensor]) -> Tensor:
        """Head outputs [2 * texts, outputs] of texts without a prompt, then of those behind `prompt`."""
        head = dict(self._head.named_parameters())
        batch = TokenizedBatch(texts)
        return self._scores(stack([prompt[:0], prompt], [head, head]), batch, batch.lengths).flatten(0, 1)

    def peft_base(self) -> PreTrainedModel:
        """The model with a head and no prompt, as PEFT wraps it, loaded afresh."""
        model: PreTrainedModel = load_classifier(self.settings, self._outputs, {"dtype": torch.float32})
        return model

    def prepare(self, examples: list[Example], what: str, beat: Callable[[], None]) -> TokenizedPairs:
        """Tokenise examples; of a pair that is too long, the longer text is cut."""
        texts = [choice for example in examples for choice in example.choices]
        ids: list[Tensor] = []
        first: list[int] = []
        for start in track(range(0, len(texts), TOKENISED), f"tokenising {what}"):
            sides = [list(side) for side in zip(*texts[start : start + TOKENISED], strict=True)]
            found = self._tokenizer(
                *sides, truncation="longest_first", max_length=self._max_tokens, return_token_type_ids=True
            )
            ids += map(torch.tensor, found["input_ids"])
            first += [types.count(0) for types in found["token_type_ids"]]
            beat()
        return TokenizedPairs(TokenizedBatch(ids), torch.tensor(first), self._choices)

    def lengths(self, rows: TokenizedPairs) -> Tensor:
        """Tokens of each example, [examples]: those of its longest choice."""
        return rows.texts.lengths.view(-1, rows.choices).amax(1)

    def micro_batch(self, stack: Stack, rows: TokenizedPairs) -> int:
        """Rows whose activations fit into memory together."""
        longest = int(rows.texts.lengths.max()) + stack.prompts.shape[1]
        return max(1, self._memory_positions // (len(stack.prompts) * longest * rows.choices))

    def new_head(self, seed: int) -> dict[str, Tensor]:
        """Parameters of a head as the model's authors initialise it."""
        return {name: value.to(self.device) for name, value in initialise(self._head, seed).items()}

    def logits(self, stack: Stack, rows: TokenizedPairs, training: bool = False) -> Tensor:
        """Class scores [lanes, examples, classes], float32; `training` switches dropout on."""
        self._train(training and self.settings.dropout > 0)
        lanes, longest, _ = stack.prompts.shape
        chunks = list(rows.texts.chunks(self._memory_positions // lanes, extra=longest))
        order = original_order(chunks, self.device)
        scores = run_chunks(lambda chunk: self._chunk_scores(stack, rows.texts[chunk], rows.first[chunk]), chunks)
        return torch.cat(scores, dim=1)[:, order].view(lanes, len(rows), -1)

    def _train(self, mode: bool) -> None:
        """Switch dropout on or off."""
        for module in (self._body, self._read, self._head):
            if module is not None:
                module.train(mode)

    def _chunk_scores(self, stack: Stack, texts: TokenizedBatch, first: Tensor) -> Tensor:
        """Head outputs [lanes, texts, outputs] of texts that fit into memory."""
        lanes, longest, _ = stack.prompts.shape
        positions = max_kernel_positions(self.device, self._memory_positions)
        chunks = list(texts.chunks(positions // lanes, extra=longest))
        order = original_order(chunks, self.device)
        return torch.cat([self._scores(stack, texts[chunk], first[chunk]) for chunk in chunks], dim=1)[:, order]

    def _scores(self, stack: Stack, texts: TokenizedBatch, first: Tensor) -> Tensor:
        """Head outputs [lanes, texts, outputs]."""
        starts: list[int] = stack.mask.sum(1).tolist()
        embeds, mask = self._lay_out(stack, starts, texts)
        types = []
        if self._typed:
            second = torch.cat([first + start for start in starts])[:, None]
            types = [(torch.arange(mask.shape[1]) >= second).long().to(self.device)]
        read = starts if self.settings.pooling == "text" else [0] * len(starts)
        at = torch.tensor(read).repeat_interleave(len(texts)).to(self.device)
        hidden = self._run[self._body.training](embeds, mask, at, *types)
        if self._read is not None:
            mask, read = mask[:, :1], [0] * len(starts)
        lanes = zip(stack.heads, hidden.chunk(len(starts)), mask.chunk(len(starts)), read, strict=True)
        return torch.stack(
            [
                functional_call(
                    self._head, head, kwargs={"inputs_embeds": states[:, at:], "attention_mask": mask[:, at:]}
                ).logits
                for head, states, mask, at in lanes
            ]
        )

    def _states(self, embeds: Tensor, mask: Tensor, at: Tensor, types: Tensor | None = None) -> Tensor:
        """Last states of `embeds`, both [n, positions, dim]; or those at the positions `at` [n] alone, [n, 1, dim]."""
        given = {} if types is None else {"token_type_ids": types}
        hidden: Tensor = self._body(inputs_embeds=embeds, attention_mask=mask.long(), **given).last_hidden_state
        return hidden if self._read is None else self._read(hidden, mask, at)

    def _lay_out(self, stack: Stack, starts: list[int], texts: TokenizedBatch) -> tuple[Tensor, Tensor]:
        """Input embeddings [lanes * texts, positions, dim] and their mask [lanes * texts, positions].

        A text follows its lane's prompt without a gap, so that positions run on; padding is at the end.
        """
        ids, mask = (tensor.to(self.device) for tensor in texts.pad(self._tokenizer.pad_token_id))
        words = self._embeddings(ids)
        length = self._run[False].length(stack.prompts.shape[1] + words.shape[1], self._max_positions)
        embeds, masks = [], []
        for prompt, start in zip(stack.prompts.to(words.dtype), starts, strict=True):
            both = torch.cat([prompt[:start].expand(len(words), -1, -1), words], dim=1)
            embeds.append(pad(both, (0, 0, 0, length - both.shape[1])))
            masks.append(pad(pad(mask, (start, 0), value=True), (0, length - both.shape[1]), value=False))
        return torch.cat(embeds), torch.cat(masks)


def _check_labels(labels: list[str], tokenizer: Any) -> None:
    """Refuse labels that differ only in what the model does not see; they name one class, not two.

    Raises:
        UserError: there are such labels.
    """
    normalizer = tokenizer.backend_tokenizer.normalizer if tokenizer.is_fast else None
    check_distinct(
        {label: " ".join((normalizer.normalize_str(label) if normalizer else label).split()) for label in labels}
    )
