"""Dual encoder: class texts carry the soft prompt, examples are encoded once.

A class text is `[prompt] [label words]` between the encoder's special tokens. Class and example
vectors are compared by cosine, as CoOp does with CLIP (Zhou et al. 2022). Examples are images where
the model is CLIP or SigLIP, and texts where it is a sentence encoder.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from shared.errors import UserError
from shared.settings import BackboneSettings, PromptSettings
from trainer import ranks
from trainer.backbones.cuda_graphs import CudaGraphs
from trainer.backbones.features import Features, cache_folder
from trainer.backbones.image_towers import ImageTowers, read_image
from trainer.backbones.labels import encode_labels
from trainer.backbones.passes import chunks_by_length, max_kernel_positions, max_pass_positions, run_chunks
from trainer.backbones.probe import own_pass, probe
from trainer.backbones.stack import Stack, stack
from trainer.backbones.towers import load_towers
from trainer.backbones.views import Views
from trainer.progress import track
from trainer.tasks.examples import Example

BATCH = 64
"""Examples encoded in one pass."""

Masked = tuple[Tensor, Tensor]
"""Vectors [..., tokens, dim] and their mask [..., tokens]."""


@dataclass(frozen=True)
class EmbeddedExamples:
    """Examples and their unit vectors [examples, dim]; of random views the vectors alone."""

    examples: list[Example]
    vectors: Tensor

    def __len__(self) -> int:
        """How many examples."""
        return len(self.vectors)

    def __getitem__(self, rows: Tensor) -> Self:
        """The examples at `rows`, int64 [n]."""
        examples = [self.examples[row] for row in rows.tolist()] if self.examples else []
        return type(self)(examples, self.vectors[rows.to(self.vectors.device)])


class DualEncoder:
    """Two frozen towers, one for class texts and one for examples."""

    def __init__(
        self, settings: BackboneSettings, prompt: PromptSettings, labels: list[str], device: torch.device
    ) -> None:
        """Load the model; `labels` are the words that name the classes.

        Raises:
            UserError: no such model, prompts cannot drive it, or a label does not fit into it.
        """
        self.settings = settings
        self.num_contexts = len(labels) if prompt.per_class else 1
        self._towers = load_towers(settings, device)
        self.device = self._towers.device
        if settings.augment and not isinstance(self._towers, ImageTowers):
            raise UserError("backbone.augment makes views of images, but the model is a sentence encoder; set it false")
        self.vocabulary = self._towers.vocabulary
        self._temperature = settings.temperature or self._towers.temperature
        self._encoded: dict[object, Tensor] = {}
        self._features: Features | None = None
        if settings.features and isinstance(self._towers, ImageTowers):
            self._features = Features(cache_folder(settings.features), self._towers.identity)
        self._labels, self._label_mask = self._embed_labels(labels, prompt.num_tokens)
        self._prefix = self.vocabulary.vectors(self._towers.prefix_ids)
        self._suffix = self.vocabulary.vectors(self._towers.suffix_ids)
        self._longest_label = self._labels.shape[1] + len(self._prefix) + len(self._suffix)
        self._positions = max_pass_positions(
            self._towers.config, self.device, self._towers.dtype, settings.checkpointing
        )
        self._run = CudaGraphs(self._encode_texts, settings, self.device)
        self._probe()

    @property
    def setup_lines(self) -> str:
        """Python lines that set up `model`, a SentenceTransformer, as it read the examples here."""
        return self._towers.setup_lines

    def _probe(self) -> None:
        """Refuse a model for which words and their embeddings are two things, or that reads padding.

        Raises:
            UserError: it is one of these.
        """
        towers = self._towers
        prompt = list(self.vocabulary.words)[:3]
        rows = [[*towers.prefix_ids, *prompt[:length], *towers.suffix_ids] for length in (3, 1)]

        def read(words: Tensor) -> Tensor:
            texts = stack([torch.cat([self._prefix, words[:length], self._suffix]) for length in (3, 1)])
            return towers.encode_embeds(texts.prompts, texts.mask)

        with own_pass(self.settings):
            expected = torch.cat([towers.encode_ids(torch.tensor([row], device=self.device)) for row in rows])
        probe(self.settings, self.vocabulary.vectors(prompt), read, expected, towers.dtype)

    def _embed_labels(self, labels: list[str], prompt_tokens: int) -> tuple[Tensor, Tensor]:
        """Label words [classes, longest, dim] and their mask [classes, longest]."""
        room = self._towers.max_length - prompt_tokens - len(self._towers.prefix_ids) - len(self._towers.suffix_ids)
        ids = encode_labels(labels, self.vocabulary, self.settings.max_tokens)
        for label, tokens in zip(labels, ids, strict=True):
            if len(tokens) > room:
                raise UserError(
                    f"label {label!r} (task.labels) has {len(tokens)} tokens, but with prompt.num_tokens = "
                    f"{prompt_tokens} the model has room for {max(room, 0)}; shorten one of the two"
                )
        words = stack([self.vocabulary.vectors(tokens) for tokens in ids])
        return words.prompts, words.mask

    @torch.no_grad()
    def prepare(self, examples: list[Example], what: str, beat: Callable[[], None]) -> EmbeddedExamples:
        """Encode examples; `what` names them on the progress bar, `beat` is called after each chunk.

        An example that is in several splits or runs is encoded once.
        """
        missing = list({example.key: example for example in examples if example.key not in self._encoded}.values())
        missing.sort(key=_characters)  # texts of similar length need little padding
        own = missing[ranks.share(len(missing))[0]]
        vectors = []
        for start in track(range(0, len(own), BATCH), f"encoding {what}"):
            vectors.append(self._encode(own[start : start + BATCH]))
            beat()
        if vectors:
            whole = ranks.gather(torch.cat(vectors), len(missing))
            self._encoded.update((example.key, vector) for example, vector in zip(missing, whole, strict=True))
        return EmbeddedExamples(examples, torch.stack([self._encoded[example.key] for example in examples]))

    def _encode(self, examples: list[Example]) -> Tensor:
        """Unit vectors [examples, dim], those of images from disk where an earlier run left them there."""
        images = [example.image for example in examples if example.image is not None]
        if self._features is None or len(images) < len(examples):
            return self._towers.encode(self._towers.read(examples))
        found = self._features.find(images)
        fresh = [example for example in examples if example.image not in found]
        if fresh:
            vectors = self._towers.encode(self._towers.read(fresh))
            encoded = {one.image: vector for one, vector in zip(fresh, vectors, strict=True) if one.image is not None}
            self._features.keep(encoded)
            found |= encoded
        return torch.stack([found[image].to(self.device) for image in images])

    def views(
        self, rows: EmbeddedExamples, batches: Iterator[tuple[int, Tensor]], seed: int
    ) -> Iterator[EmbeddedExamples] | None:
        """The training examples of each batch, given by iteration and rows, seen in random views.

        A view depends on seed, iteration and row alone. None without backbone.augment.
        """
        if not self.settings.augment or not isinstance(self._towers, ImageTowers):
            return None
        towers = self._towers
        made = Views(rows.examples, read_image, towers.to_pixels, towers.image_size, seed)
        encoded = map(self._encode_pixels, made.batches(batches, self.settings.num_workers))
        return (EmbeddedExamples([], vectors) for vectors in encoded)

    @torch.no_grad()
    def _encode_pixels(self, pixels: Tensor) -> Tensor:
        assert isinstance(self._towers, ImageTowers)
        return torch.cat([self._towers.encode_pixels(part) for part in torch.split(pixels, BATCH)])

    def lengths(self, rows: EmbeddedExamples) -> None:
        """None: every example is one vector."""

    def micro_batch(self, stack: Stack, rows: EmbeddedExamples) -> int:  # noqa: ARG002
        """All of them: what a step keeps grows with the classes, not with the rows."""
        return len(rows)

    def new_head(self, seed: int) -> dict[str, Tensor]:  # noqa: ARG002 - every family has the same methods
        """Empty: only the prompt is trained."""
        return {}

    def logits(self, stack: Stack, rows: EmbeddedExamples, training: bool = False) -> Tensor:  # noqa: ARG002
        """Class scores [lanes, examples, classes]; training needs nothing else."""
        return self.classify(self.class_embeddings(stack), rows)

    def classify(self, class_embeddings: Tensor, rows: EmbeddedExamples) -> Tensor:
        """Cosines of class vectors [lanes, classes, dim] and examples over the temperature."""
        return rows.vectors @ class_embeddings.transpose(-1, -2) / self._temperature

    def class_embeddings(self, stack: Stack) -> Tensor:
        """Unit vectors [lanes, classes, dim] of the class texts.

        Memory is bounded: texts go through the tower in chunks, with those of other ranks left to them.
        """
        lanes, classes = len(stack.prompts), len(self._labels)
        longest = stack.prompts.shape[1] // self.num_contexts + self._longest_label
        own = torch.arange(lanes * classes, device=self.device)[ranks.share(lanes * classes)[0]]
        chunks = torch.split(own, max(1, self._positions // longest))
        vectors = run_chunks(lambda texts: self._run(stack.prompts, stack.mask, texts), chunks)
        return ranks.gather(torch.cat(vectors), lanes * classes).view(lanes, classes, -1)

    def _lay_out(self, prompts: Masked, texts: Tensor) -> Masked:
        """Input embeddings of the class texts numbered lane * classes + class, [texts, tokens, dim].

        Unused positions are masked and moved to the end, as a tokenizer pads, so a prompt of
        words gives the vector that tokenizer and encoder give for the same text.
        """
        pieces = list(self._pieces(prompts, texts))
        embeds = torch.cat([part for part, _ in pieces], dim=1)
        mask = torch.cat([mask for _, mask in pieces], dim=1)
        longest = prompts[0].shape[2] + self._longest_label
        order = mask.sort(dim=1, descending=True, stable=True).indices[:, :longest]
        embeds = embeds.gather(1, order[..., None].expand(-1, -1, embeds.shape[-1]))
        return embeds, mask.gather(1, order)

    def _encode_texts(self, prompts: Tensor, mask: Tensor, texts: Tensor) -> Tensor:
        """Unit vectors [texts, dim] of class texts that fit into memory.

        Args:
            prompts: of all lanes, [lanes, longest, dim].
            mask: of `prompts`, [lanes, longest].
            texts: numbers of the class texts, as in `_lay_out`.
        """
        embeds, mask = self._lay_out(self._by_context(prompts, mask), texts)
        if self.device.type != "cpu":
            return self._towers.encode_embeds(embeds, mask)
        return self._encode_by_length(embeds, mask)

    def _encode_by_length(self, embeds: Tensor, mask: Tensor) -> Tensor:
        """Unit vectors [texts, dim] by calls with texts of similar length, as a processor is fast."""
        lengths = mask.sum(1)
        chunks = list(chunks_by_length(lengths, max_kernel_positions(self.device, self._positions)))
        longest = [int(lengths[chunk].max()) for chunk in chunks]
        vectors = [
            self._towers.encode_embeds(embeds[chunk, :length], mask[chunk, :length])
            for chunk, length in zip(chunks, longest, strict=True)
        ]
        return torch.cat(vectors)[torch.cat(chunks).argsort()]

    def _pieces(self, prompts: Masked, texts: Tensor) -> Iterator[Masked]:
        """The parts of class texts, each [texts, tokens, dim] with its mask."""
        lane, label = texts // len(self._labels), texts % len(self._labels)
        context = label if self.num_contexts > 1 else torch.zeros_like(label)
        prompt, mask = (part[lane, context] for part in prompts)
        words = self._labels[label], self._label_mask[label]
        yield self._constant(self._prefix, len(texts))
        match self.settings.label_position:
            case "end":
                yield from ((prompt, mask), words)
            case "front":
                yield from (words, (prompt, mask))
            case "middle":
                front = mask & (mask.cumsum(-1) <= mask.sum(-1, keepdim=True) // 2)  # each lane's own half
                yield from ((prompt, front), words, (prompt, mask & ~front))
        yield self._constant(self._suffix, len(texts))

    def _by_context(self, prompts: Tensor, mask: Tensor) -> Masked:
        """Prompts [lanes, contexts, longest, dim] and their mask; a lane is its contexts joined."""
        tokens, longest = mask.sum(1) // self.num_contexts, prompts.shape[1]
        place = torch.arange(longest // self.num_contexts, device=self.device)
        mask = (place < tokens[:, None])[:, None].expand(-1, self.num_contexts, -1)
        context = torch.arange(self.num_contexts, device=self.device)[:, None]
        rows = (context * tokens[:, None, None] + place).clamp(max=longest - 1)
        lane = torch.arange(len(rows), device=self.device)[:, None, None]
        return prompts[lane, rows], mask

    def _constant(self, vectors: Tensor, texts: int) -> Masked:
        """Vectors [tokens, dim] that are the same in every class text."""
        vectors = vectors.expand(texts, -1, -1)
        return vectors, torch.ones(vectors.shape[:-1], dtype=torch.bool, device=self.device)


def _characters(example: Example) -> int:
    return sum(len(text) for choice in example.choices for text in choice)
