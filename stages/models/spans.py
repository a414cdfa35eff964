"""Which characters of a completion each of its tokens holds. Needs no torch."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from stages.contract import ANSWER
from stages.errors import DataError


def token_spans(tokenizer: Tokenizer, row: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Where in the row's completion each of its tokens begins and ends, in characters, [L] int64 both.

    Tokens that hold one character between them, or bytes that are none, all have the span of these; special tokens,
    which the completion leaves out, an empty one. Raises DataError when the tokens are not the completion's.
    """
    completion, token_ids = row["completion"] or "", row["token_ids"]
    unlike = DataError(
        f"{named(row)}: its completion is not what its token_ids say; "
        "leave out --embedding hidden and --credit, which go by single tokens"
    )
    if any(token is None or token < 0 for token in token_ids):
        raise unlike
    special = {token for token, added in tokenizer.get_added_tokens_decoder().items() if added.special}
    stream = DecodeStream(skip_special_tokens=True)
    starts: list[int] = []
    ends: list[int] = []
    texts: list[str] = []
    done, waiting = 0, []  # characters, and the tokens that are still to give one
    for place, token in enumerate(token_ids):
        starts.append(done)
        ends.append(done)
        if token in special:
            continue
        waiting.append(place)
        if text := stream.step(tokenizer, token):
            texts.append(text)
            done += len(text)
            for each in waiting:
                ends[each] = done
            waiting = []
    for each in waiting:
        ends[each] = len(completion)
    # A completion that was cut off within a character ends with a replacement for it, or without.
    rest = completion[done:]
    if "".join(texts) != completion[:done] or rest.strip("\ufffd") or (rest and not waiting):
        raise unlike
    return np.array(starts, np.int64), np.array(ends, np.int64)


def named(row: Mapping[str, Any]) -> str:
    """Which row it is, for who is told of it."""
    of_pass = row.get("pass") or ANSWER
    return f"group {row['group_id']}, {row['role']}{f' {of_pass}' * (of_pass != ANSWER)} {row['sample_index']}"
