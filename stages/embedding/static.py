"""The paper's embedding: the mean of the model's own input token embeddings. Blind to the order of the words."""

from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np
import pyarrow as pa
from scipy import sparse

from stages.embedding import TOKENS_PER_STEP, Step
from stages.models.finding import Model

LONGEST_STEP = 10_000  # characters: no 64 tokens need more, and tokenising a megabyte takes a second


class StaticEmbedder:
    """e but for its length: the sum of the model's input embeddings over a step's first 64 tokens, which points where
    their mean does."""

    def __init__(self, model: Model) -> None:
        self._table = model.embedding_table()
        self._tokenizer = model.read_tokenizer()
        self._tokenizer.encode_special_tokens = True  # "<|im_end|>" in a step's text is text
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def embed(self, steps: Sequence[Step], block: pa.Table | None = None) -> np.ndarray:
        """[S, width], float32, from the steps' texts alone; zero for a step without tokens."""
        distinct = {text: index for index, text in enumerate(dict.fromkeys(step.text for step in steps))}
        tokens = self._tokenise(distinct)
        ends = np.cumsum([0, *map(len, tokens)])
        used = np.fromiter(chain.from_iterable(tokens), np.int64, ends[-1])
        vocabulary, column = np.unique(used, return_inverse=True)
        # Which tokens each step has, times the embeddings of the tokens there are; sums are in the order of the tokens.
        counts = sparse.csr_array(
            (np.ones(len(column), np.float32), column, ends), shape=(len(tokens), len(vocabulary))
        )
        sums = counts @ self._table.rows(vocabulary)
        return sums[[distinct[step.text] for step in steps]]

    def _tokenise(self, texts: Iterable[str]) -> list[list[int]]:
        encodings = self._tokenizer.encode_batch_fast([text[:LONGEST_STEP] for text in texts], add_special_tokens=False)
        return [encoding.ids[:TOKENS_PER_STEP] for encoding in encodings]
