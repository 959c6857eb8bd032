"""Small encoders of several kinds with random weights, saved as a hub model is."""

import torch
from conftest import FRUIT, tiny_tokenizer

SIZES = {
    "vocab_size": 22,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 66,
}


def small_config(kind):
    import transformers

    match kind:
        case "roberta":
            return transformers.RobertaConfig(**SIZES, type_vocab_size=1)
        case "distilbert":
            sizes = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 66}
            return transformers.DistilBertConfig(vocab_size=22, **sizes)
        case "electra":
            return transformers.ElectraConfig(**SIZES, embedding_size=16)
        case "albert":
            return transformers.AlbertConfig(**SIZES, embedding_size=16)
        case _:
            return transformers.BertConfig(**SIZES)


def pair_tokenizer():
    from tokenizers.processors import TemplateProcessing

    tokenizer = tiny_tokenizer(FRUIT)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 3), ("[SEP]", 4)]
    )
    return tokenizer


def save_small_encoder(kind, root):
    """The folder of an encoder inside `root`, made once."""
    from transformers import AutoModelForSequenceClassification

    folder = root / kind
    if not folder.exists():
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(small_config(kind))
        with torch.no_grad():
            for value in model.parameters():
                value += 0.2 * torch.randn_like(value)  # or every text looks alike
        model.save_pretrained(folder)
        pair_tokenizer().save_pretrained(folder)
    return str(folder)


def save_small_sentences(root):
    """The folder of a sentence encoder inside `root`."""
    import transformers

    torch.manual_seed(1)
    transformers.BertModel(transformers.BertConfig(**SIZES, initializer_range=0.2)).save_pretrained(root / "sentences")
    tiny_tokenizer(FRUIT).save_pretrained(root / "sentences")
    return root / "sentences"
