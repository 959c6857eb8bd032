"""Between vectors and words: nearest, not farthest; whole words only; pushes as brute force finds them."""

import math

import pytest
import torch
from conftest import FRUIT, tiny_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from trainer.backbones.vocabulary import Vocabulary


def cosine(a, b):
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / (math.hypot(*a) * math.hypot(*b))


def table(vocabulary):
    """Word to its vector, as lists."""
    return {word: vocabulary.embeddings[index].tolist() for index, word in vocabulary.words.items()}


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_nearest_is_what_brute_force_finds(fruit, metric):
    vectors = 2.0 * torch.randn(40, 6, generator=torch.Generator().manual_seed(7))
    words, nearness = fruit.nearest(vectors, metric)
    near = {"cosine": cosine, "l2": lambda a, b: -math.dist(a, b)}[metric]
    expected = [max(table(fruit), key=lambda word: near(vector, table(fruit)[word])) for vector in vectors.tolist()]
    assert words == expected
    cosines = [cosine(vector, table(fruit)[word]) for vector, word in zip(vectors.tolist(), expected, strict=True)]
    assert nearness == pytest.approx(sum(cosines) / len(cosines), abs=1e-5)


def test_the_two_metrics_differ_where_length_matters():
    embeddings = torch.zeros(len(tiny_tokenizer(["long", "short"])), 2)
    vocabulary = Vocabulary(tiny_tokenizer(["long", "short"]), embeddings)
    (long, short) = vocabulary.words
    embeddings[long], embeddings[short] = torch.tensor([9.0, 0.0]), torch.tensor([0.6, 0.5])
    vector = torch.tensor([[1.0, 0.1]])
    assert vocabulary.nearest(vector, "cosine")[0] == ["long"]
    assert vocabulary.nearest(vector, "l2")[0] == ["short"]


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_words_are_nearest_to_themselves(fruit, metric):
    words, nearness = fruit.nearest(fruit.embed("kiwi fig olive", 8), metric)
    assert words == ["kiwi", "fig", "olive"]
    assert nearness == pytest.approx(1.0, abs=1e-5)


def test_only_whole_words_are_words(fruit):
    assert sorted(fruit.words.values()) == sorted(FRUIT)


def test_a_special_token_that_looks_like_a_word_is_none():
    tokenizer = tiny_tokenizer(FRUIT)
    tokenizer.mask_token = "fig"
    vocabulary = Vocabulary(tokenizer, torch.randn(len(tokenizer), 4))
    assert sorted(vocabulary.words.values()) == sorted(set(FRUIT) - {"fig"})
    assert len(vocabulary.encode("fig", 5)) == 0


def test_even_the_vector_of_a_special_token_is_given_in_words(fruit):
    for index in range(len(fruit.embeddings)):
        assert fruit.nearest(fruit.embeddings[index : index + 1])[0][0] in FRUIT


def test_minilm_says_no_mask_no_pieces_and_no_signs(vocabulary):
    words = vocabulary.words.values()
    assert len(words) > 10_000 and all(word.isalpha() for word in words)
    assert {"customer", "message", "about"} <= set(words)
    said, _ = vocabulary.nearest(vocabulary.embeddings[:2000])
    assert set(said) <= set(words)
    for seed in range(20):
        vector = 0.05 * torch.randn(4, vocabulary.embeddings.shape[1], generator=torch.Generator().manual_seed(seed))
        for word in vocabulary.nearest(vector)[0]:
            assert word != "[MASK]" and not word.startswith(("##", "["))


def marked(mark):
    """A tokenizer that marks the beginning of a word, as byte-pair and unigram ones do."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = [*sorted(set("applepearsing<>/")), mark]
    merged = ["ap", "app", "appl", "apple", f"{mark}apple", "pe", "pea", "pear", f"{mark}pear", "in", "ing"]
    vocabulary = {token: index for index, token in enumerate(["<s>", "</s>", "<unk>", *letters, *merged])}
    merges = [("a", "p"), ("ap", "p"), ("app", "l"), ("appl", "e"), (mark, "apple"), ("p", "e"), ("pe", "a")]
    merges += [("pea", "r"), (mark, "pear"), ("i", "n"), ("in", "g")]
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>"))
    if mark == "Ġ":
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        inner.decoder = decoders.ByteLevel()
    else:
        inner.pre_tokenizer = pre_tokenizers.Metaspace()
        inner.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.mark.parametrize("mark", ["Ġ", "▁"])
def test_where_tokens_mark_words_only_marked_ones_are_words(mark):
    tokenizer = marked(mark)
    vocabulary = Vocabulary(tokenizer, torch.randn(len(tokenizer), 4))
    assert set(vocabulary.words.values()) == {"apple", "pear"}
    assert vocabulary.decode(vocabulary.encode("apple pear", 9)) == "apple pear"
    assert vocabulary.nearest(vocabulary.embed("apple pear", 9))[0] == ["apple", "pear"]


def pairs(kind, words=(*FRUIT, "café", "Äpfel", "слива"), reserved="<reserved>"):
    """A byte-pair tokenizer that knows `words` as single tokens inside a sentence: as GPT-2's, CLIP's or Gemma's."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False)
    spaced = pre_tokenizers.Metaspace(prepend_scheme="never")
    ends = {"end_of_word_suffix": "</w>"} if kind == "clip" else {}
    inner = Tokenizer(models.BPE(**ends))
    inner.pre_tokenizer, inner.decoder = {
        "gpt2": (bytes_only, decoders.ByteLevel()),
        "clip": (
            pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), bytes_only]),
            decoders.Sequence([decoders.ByteLevel(), decoders.Replace("</w>", " ")]),
        ),
        "gemma": (spaced, decoders.Metaspace(prepend_scheme="never")),
    }[kind]
    trainer = trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False, **ends)
    inner.train_from_iterator([" " + " ".join(words)] * 2, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>")
    tokenizer.add_tokens([AddedToken(reserved, special=True)])
    return tokenizer


PAIRS = ["gpt2", "clip", "gemma"]


def vocabulary_of(tokenizer):
    return Vocabulary(tokenizer, torch.randn(len(tokenizer), 4, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("kind", PAIRS)
def test_words_are_read_as_they_are_written_whatever_marks_them(kind):
    words = set(vocabulary_of(pairs(kind)).words.values())
    assert {*FRUIT, "café", "Äpfel", "слива"} <= words
    letters = "".join([*FRUIT, "café", "Äpfel", "слива"])
    assert all(word.isalpha() for word in words)
    if kind != "gemma":  # whose alphabet is that of the bytes in this test
        assert set("".join(words)) - {chr(code) for code in range(128)} <= set(letters)


@pytest.mark.parametrize("tokenizer", [*map(pairs, PAIRS), tiny_tokenizer(FRUIT)], ids=[*PAIRS, "bert"])
def test_sampled_words_are_single_tokens_wherever_they_stand(tokenizer):
    vocabulary = vocabulary_of(tokenizer)
    for seed in range(10):
        words = vocabulary.sample(4, torch.Generator().manual_seed(seed))
        ids = vocabulary.encode(words, 9)
        assert [vocabulary.words[index] for index in ids.tolist()] == words.split()
        assert vocabulary.nearest(vocabulary.embed(words, 9))[0] == words.split()
        assert vocabulary.decode(ids) == words


@pytest.mark.parametrize("kind", PAIRS)
def test_reserved_tokens_are_special_too(kind):
    tokenizer = pairs(kind, reserved="reserved")
    vocabulary, reserved = vocabulary_of(tokenizer), tokenizer.convert_tokens_to_ids("reserved")
    assert reserved in tokenizer("fig reserved fig")["input_ids"]
    assert reserved not in vocabulary.encode("fig reserved fig", 9).tolist()
    assert reserved not in vocabulary.words


@pytest.mark.parametrize("sign", ["Ġ", "▁", "lemon</w>"])
def test_a_vocabulary_may_hold_another_kinds_mark_as_a_letter(sign):
    assert set(FRUIT) <= set(vocabulary_of(tiny_tokenizer(FRUIT, extra=("##ing", "##s", sign))).words.values())


def test_embeddings_beyond_the_tokenizers_last_token_are_not_words():
    tokenizer = tiny_tokenizer(FRUIT)
    vocabulary = Vocabulary(tokenizer, torch.randn(len(tokenizer) + 10, 4))  # models pad their tables
    assert sorted(vocabulary.words.values()) == sorted(FRUIT)


# Untrusted text

SPECIAL = ["[SEP]", "[MASK]", "[CLS]", "[PAD]", "[UNK]", "<s>", "</s>", "<unk>", "<|endoftext|>", "[unused0]"]
pieces = st.lists(st.sampled_from([*SPECIAL, *FRUIT, "apple ", " ", "\n", "##ing"]) | st.text(max_size=8), max_size=12)


@given(pieces=pieces)
def test_untrusted_text_gives_no_special_token(pieces):
    text = "".join(pieces)
    for tokenizer in TOKENIZERS:
        ids = Vocabulary(tokenizer, torch.zeros(len(tokenizer), 2)).encode(text, 1000)
        assert not set(ids.tolist()) & set(tokenizer.all_special_ids), text


TOKENIZERS = [tiny_tokenizer(FRUIT), marked("Ġ"), marked("▁")]


@pytest.mark.parametrize("text", [*SPECIAL, "apple [SEP] pear", "a customer [MASK][MASK] message", "[CLS][SEP]"])
def test_minilm_gives_no_special_token(vocabulary, text):
    special = {0, 100, 101, 102, 103}  # [PAD] [UNK] [CLS] [SEP] [MASK]
    ids = vocabulary.encode(text, 100)
    assert ids.dtype == torch.long
    assert not set(ids.tolist()) & special
    plain = vocabulary.encode(text.replace("[SEP]", " ").replace("[MASK]", " "), 100).tolist()
    assert plain == ids.tolist() or not any(name in text for name in ("[SEP]", "[MASK]"))


def test_encode_stops_at_the_most(fruit):
    assert fruit.encode("apple pear plum", 2).tolist() == fruit.encode("apple pear", 9).tolist()
    assert fruit.embed("apple pear plum", 2).shape == (2, 6)
    assert len(fruit.encode("", 5)) == 0 and fruit.embed("", 5).shape == (0, 6)


def test_embed_gives_a_copy(fruit):
    fruit.embed("apple", 1).zero_()
    assert fruit.embed("apple", 1).abs().sum() > 0


def test_sampled_words_are_words_and_follow_the_seed(fruit):
    one, same, other = (fruit.sample(12, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert one == same != other
    assert len(one.split()) == 12 and set(one.split()) <= set(FRUIT)
    assert len(set(one.split())) > 3


# Pushes


def test_pushes_are_what_brute_force_finds(fruit):
    generator = torch.Generator().manual_seed(11)
    prompt, gradient = torch.randn(5, 6, generator=generator), torch.randn(5, 6, generator=generator)
    expected = []
    for position in range(5):
        change = {
            word: sum(
                slope * (new - old)
                for slope, new, old in zip(gradient[position].tolist(), vector, prompt[position].tolist(), strict=True)
            )
            for word, vector in table(fruit).items()
        }
        expected.append(sorted(change, key=change.__getitem__)[:4])
    assert fruit.hotflip_candidates(gradient, 4) == expected


@pytest.fixture(scope="module")
def descent(context):
    """A prompt of MiniLM with its gradient, and the loss as a function of the prompt."""
    from trainer.backbones.stack import stack
    from trainer.search.evaluation import losses

    train = context.encode(context.task.train, "training rows")

    def loss(prompt):
        return losses(context.backbone.logits(stack([prompt]), train.inputs), train.targets)[0]

    prompt = context.backbone.vocabulary.embed("a customer message about", 8).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(prompt), prompt)
    return prompt.detach(), gradient, loss


def test_minilms_pushes_are_what_brute_force_finds(vocabulary, descent):
    prompt, gradient, _ = descent
    ids = list(vocabulary.words)
    for position, said in enumerate(vocabulary.hotflip_candidates(gradient, 5)):
        change = (vocabulary.embeddings[ids].double() - prompt[position].double()) @ gradient[position].double()
        order = change.argsort().tolist()
        assert said == [vocabulary.words[ids[index]] for index in order[:5]]
        assert change[order[0]] < 0


def test_a_small_move_to_the_pushed_word_lowers_the_loss_as_the_gradient_says(vocabulary, descent):
    prompt, gradient, loss = descent
    here, part = loss(prompt).item(), 0.02
    for position, (word, *_) in enumerate(vocabulary.hotflip_candidates(gradient, 1)):
        way = vocabulary.embed(word, 1)[0] - prompt[position]
        moved = prompt.clone()
        moved[position] += part * way
        expected = part * float(gradient[position] @ way)
        change = loss(moved).item() - here
        assert change < 0
        assert change == pytest.approx(expected, rel=0.25, abs=2e-5)
