"""Label words as classes: a class scores the log-probability of all its words' tokens."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from shared.errors import UserError

Ids = tuple[int, ...]


class Verbalizer:
    """The tokens of all label words as one tree, so that one pass over a text scores every class.

    A node stands for what one or more label words begin with, and says how likely each token is to come next;
    a last token needs no node. The root is the end of the text. The other nodes stand behind the text, and each
    reads the text, its ancestors and itself.
    """

    def __init__(self, labels: Mapping[str, Ids], device: torch.device) -> None:
        """Take the token ids of each label, in the order of the classes.

        Raises:
            UserError: a label has no token, or two have the same.
        """
        self.classes = len(labels)
        nodes = _nodes(labels)
        self.nodes = len(nodes)
        """The root and all others."""
        below = nodes[1:]
        self.depth = len(nodes[-1])
        """Most positions behind the text's end that a node takes."""
        sees = [[node[: len(other)] == other for other in below] for node in below]
        self.tokens = torch.tensor([node[-1] for node in below], dtype=torch.long, device=device)
        """The token at each node but the root, [nodes - 1]."""
        self.depths = torch.tensor([len(node) for node in below], dtype=torch.long, device=device)
        """How far behind the text's end each node stands, 1 for the first token, [nodes - 1]."""
        self.sees = torch.tensor(sees, dtype=torch.bool, device=device).view(len(below), len(below))
        """Which nodes each node reads, [nodes - 1, nodes - 1]."""
        said = [
            (nodes.index(ids[:at]), token, number)
            for number, ids in enumerate(labels.values())
            for at, token in enumerate(ids)
        ]
        self._said = torch.tensor(said, device=device).unbind(1)

    def scores(self, logits: Tensor) -> Tensor:
        """Log-probabilities of the label words, [rows, classes], from logits [rows, nodes, vocabulary]."""
        node, token, number = self._said
        said = log_softmax(logits.float(), dim=-1)[:, node, token]
        return said.new_zeros(len(logits), self.classes).index_add(1, number, said)


def _nodes(labels: Mapping[str, Ids]) -> list[Ids]:
    """What label words begin with, each once, the root first."""
    known: dict[Ids, str] = {}
    for label, ids in labels.items():
        if not ids:
            raise UserError(f"label {label!r} (task.labels) has no words that the model knows")
        if ids in known:
            raise UserError(f"labels {known[ids]!r} and {label!r} (task.labels) are the same tokens to the model")
        known[ids] = label
    begins = {ids[:count] for ids in known for count in range(len(ids))}
    return sorted(begins, key=lambda begin: (len(begin), begin))
