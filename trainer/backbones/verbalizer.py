"""Label words as classes: a class scores the log-probability that its words are the answer.

That is the product over their tokens and, where another label continues them (`technology`, `technology problem`),
over the chance that the answer ends there: that none of the tokens follows with which another label goes on. Without
the end the longer label could never win, since its probability is a part of the shorter one's.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from trainer.backbones.labels import check_distinct

Ids = tuple[int, ...]


class Verbalizer:
    """The tokens of all label words as one tree, so that one pass over a text scores every class.

    A node stands for a proper prefix of one or more label words, and its logits say how likely each token is to
    come next; a last token needs no node. The root is the end of the text. The other nodes stand behind the text, and
    each reads the text, its ancestors and itself.
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
        self.deepest = nodes[-1]
        """The token ids that lead from the root to the last node."""
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
        steps = [
            (nodes.index(ids[:at]), token, number)
            for number, ids in enumerate(labels.values())
            for at, token in enumerate(ids)
        ]
        self._node, self._token, self._class = torch.tensor(steps, device=device).unbind(1)
        ends = [(nodes.index(ids), number) for number, ids in enumerate(labels.values()) if ids in nodes]
        self._end_node, self._end_class = torch.tensor(ends, dtype=torch.long, device=device).view(-1, 2).unbind(1)
        following = [
            (at, token) for at, (node, _) in enumerate(ends) for token in {t for n, t, _ in steps if n == node}
        ]
        self._following = torch.tensor(following, dtype=torch.long, device=device).view(-1, 2).unbind(1)
        """Of each end, the tokens with which another label goes on."""

    def scores(self, logits: Tensor) -> Tensor:
        """Log-probabilities of the classes, [rows, classes], from logits [rows, nodes, vocabulary]."""
        tokens = log_softmax(logits.float(), dim=-1)[:, self._node, self._token]
        scores = tokens.new_zeros(len(logits), self.classes).index_add(1, self._class, tokens)
        if not len(self._end_node):
            return scores
        at_ends = logits[:, self._end_node].float()
        continued = torch.zeros_like(at_ends[0], dtype=torch.bool)
        continued[self._following] = True
        ends = at_ends.masked_fill(continued, -torch.inf).logsumexp(-1) - at_ends.logsumexp(-1)
        return scores.index_add(1, self._end_class, ends)


def _nodes(labels: Mapping[str, Ids]) -> list[Ids]:
    """The proper prefixes of label words, each once, the root first."""
    check_distinct(labels)
    prefixes = {ids[:count] for ids in labels.values() for count in range(len(ids))}
    return sorted(prefixes, key=lambda prefix: (len(prefix), prefix))
