"""A sentence encoder such as MiniLM as both towers: class texts and examples are texts."""

import copy
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from shared.errors import UserError
from shared.settings import BackboneSettings
from trainer.backbones.frozen_linear import use_onednn
from trainer.backbones.model_files import SAFE, check_loaded, refusing, setting_of
from trainer.backbones.model_inputs import check_tokenizer, max_positions, padding_token, token_embeddings
from trainer.backbones.model_options import freeze, frozen_dtype, load_options
from trainer.backbones.vocabulary import Vocabulary
from trainer.tasks.examples import Example


class SentenceTowers:
    """One frozen encoder with all modules that sentence-transformers gives it: pooling, dense layers, default prompt.

    Class texts enter its Transformer module as input embeddings, and go through the other modules as texts do.
    """

    temperature = 0.05

    def __init__(self, name: str, settings: BackboneSettings, device: torch.device) -> None:
        """Load the folder or hub name `name`; examples are cut at the settings' max_tokens and at what the model reads.

        Raises:
            UserError: sentence-transformers cannot load it, or it does not begin with a Transformer module.
        """
        from sentence_transformers.sentence_transformer.modules import Normalize  # see _load

        self._model = _load(name, settings, device)
        # A second normalisation would change the last bits.
        self._normalizes = isinstance(self._model[-1], Normalize) and self._model.truncate_dim is None
        self.config = self._model[0].auto_model.config
        self.dtype = frozen_dtype(settings, device)
        freeze(self._model[0].auto_model, settings, device)
        self.device = self._model[0].auto_model.get_input_embeddings().weight.device
        self._tokenizer = self._model.tokenizer
        setup = []
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = padding_token(self._tokenizer)
            setup.append(f"model.tokenizer.pad_token = {self._tokenizer.pad_token!r}")
        self.vocabulary = Vocabulary(self._tokenizer, token_embeddings(settings, self._model[0].auto_model))
        check_tokenizer(settings, self._tokenizer, self.vocabulary)
        self._prompt: str | None = self._model.prompts.get(self._model.default_prompt_name or "")
        self.prefix_ids, self.suffix_ids, self._features = self._frame(settings)
        self.max_length = min(self._model.max_seq_length or sys.maxsize, max_positions(self._model[0].auto_model))
        self._model.max_seq_length = min(settings.max_tokens, self.max_length)
        added = len(self.prefix_ids) + len(self.suffix_ids)
        if self._model.max_seq_length <= added:
            raise UserError(
                f"backbone.max_tokens = {settings.max_tokens} leaves no room for words: the model reads "
                f"{self._model.max_seq_length} tokens, of which {added} are its own; raise it or choose another model"
            )
        self.setup_lines = "\n".join([*setup, f"model.max_seq_length = {self._model.max_seq_length}"])

    def encode_embeds(self, embeds: Tensor, mask: Tensor) -> Tensor:
        """Unit vectors [texts, dim] of input embeddings [texts, tokens, width], whose padding is at the end."""
        return self._vectors({"inputs_embeds": embeds.to(self.dtype), "attention_mask": mask.long(), **self._features})

    def encode_ids(self, ids: Tensor) -> Tensor:
        """Unit vectors [texts, dim] of token ids [texts, tokens] without padding."""
        return self._vectors({"input_ids": ids, "attention_mask": torch.ones_like(ids), **self._features})

    def read(self, examples: list[Example]) -> list[str]:
        """The texts of the examples; two of one example are two lines of one text."""
        for example in examples:
            if len(example.choices) != 1:
                what = "an image" if example.image is not None else "a choice between texts"
                raise UserError(f"the model is a sentence encoder and reads texts, but an example is {what}")
        return ["\n".join(example.choices[0]) for example in examples]

    def encode(self, inputs: list[str]) -> Tensor:
        """Unit vectors [texts, dim], those of `SentenceTransformer.encode`."""
        return self._vectors(self._model.preprocess(inputs, prompt=self._prompt))

    def _vectors(self, features: dict[str, Any]) -> Tensor:
        """Unit vectors [texts, dim] of what the modules read."""
        features = {name: part.to(self.device) if isinstance(part, Tensor) else part for name, part in features.items()}
        vectors: Tensor = self._model(features)["sentence_embedding"][:, : self._model.truncate_dim].float()
        return vectors if self._normalizes else normalize(vectors, dim=-1)

    def _frame(self, settings: BackboneSettings) -> tuple[list[int], list[int], dict[str, Any]]:
        """The tokens before and after every text, and the features that are the same for all."""
        word = next(iter(self.vocabulary.words.values()))
        word_ids = self.vocabulary.encode(word, 2).tolist()
        for text in (word, f" {word}"):  # some tokenizers have a token of its own for a word that begins a text
            features = self._model.preprocess([text], prompt=self._prompt)
            ids: list[int] = features["input_ids"][0].tolist()
            if len(word_ids) == 1 and word_ids[0] in ids:
                at = len(ids) - 1 - ids[::-1].index(word_ids[0])
                same = {name: part for name, part in features.items() if not isinstance(part, Tensor)}
                return ids[:at], ids[at + 1 :], same
        raise UserError(
            f"{setting_of(settings)}: the tokenizer gives the word {word!r} other tokens in a text than alone; "
            "choose another model"
        )


def _load(name: str, settings: BackboneSettings, device: torch.device) -> Any:
    """The modules of a sentence encoder, with all the weights of its files and none drawn at random."""
    # Here, because it takes seconds and the other families do without it.
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Transformer
    from sentence_transformers.util import load_file_path

    with refusing(settings, "cannot be loaded as a sentence encoder or CLIP", "copy the model again or choose another"):
        options = {
            **load_options(settings, device),
            "ignore_mismatched_sizes": True,
        }  # those are refused below, by name
        where = None if "device_map" in options else str(device)
        model = SentenceTransformer(name, device=where, model_kwargs=options, trust_remote_code=False)
        model.eval().requires_grad_(False)
        for module in list(model)[1:]:
            module.to(options["dtype"])
        use_onednn(model)
        first: Any = model[0]
        if not isinstance(first, Transformer):
            raise UserError(
                f"{setting_of(settings)}: its first module is {type(first).__name__}, which no soft prompt can enter; "
                "choose a model whose first module is a Transformer"
            )
        # sentence-transformers keeps to itself which weights were missing. A second load without data shows it.
        listed = load_file_path(name, "modules.json")
        place = {"subfolder": json.loads(Path(listed).read_text(encoding="utf-8"))[0]["path"]} if listed else {}
        config = copy.deepcopy(first.auto_model.config)
        vars(config).pop("quantization_config", None)  # the second load would take the weights for quantised ones
        _, found = type(first.auto_model).from_pretrained(
            name,
            config=config,
            device_map="meta",
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **place,
            **SAFE,
        )
    if first.module_output_name == "token_embeddings":  # then nothing reads the model's own pooler
        found["missing_keys"] = [name for name in found["missing_keys"] if not name.startswith("pooler.")]
    check_loaded(settings, first.auto_model, found)
    return model
