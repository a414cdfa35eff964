"""A model's input token embeddings, read straight from the checkpoint, so that `score` can embed reasoning steps
without loading the model."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stages.errors import EngineError
from stages.models.untrusted import Refused, StoredTensor, tensor_headers


class EmbeddingTable:
    """The model's input token embeddings, mapped from the checkpoint: only the rows asked for are read.

    numpy has no bfloat16, so the bytes are widened here rather than torch imported for it.
    """

    def __init__(self, path: Path) -> None:
        """Finds the one tensor whose name ends in `embed_tokens.weight`, in any of the weight files.

        Raises EngineError when there is none, or its file cannot be read.
        """
        for file in sorted(path.glob("*.safetensors")):
            try:
                headers = tensor_headers(file)
            except Refused as error:
                raise EngineError(str(error)) from error
            for name, tensor in headers.items():
                if name.endswith("embed_tokens.weight"):
                    self._map(file, tensor)
                    return
        raise EngineError(f"{path}: no tensor embed_tokens.weight in its safetensors files")

    def _map(self, file: Path, tensor: StoredTensor) -> None:
        dtypes = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}
        self._file, self._bfloat16 = file, tensor.dtype == "BF16"
        if tensor.dtype not in dtypes or len(tensor.shape) != 2 or not all(tensor.shape):
            raise EngineError(f"{file}: embeddings of {tensor.dtype} {list(tensor.shape)} are not supported")
        self.width = tensor.shape[1]
        try:
            self._rows = np.memmap(file, dtypes[tensor.dtype], "r", tensor.start, tensor.shape)
        except (OSError, ValueError) as error:
            raise EngineError(f"{file}: cannot be read ({error})") from error

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self, token_ids: np.ndarray | Sequence[int]) -> np.ndarray:
        """Embeddings [n, width], float32, of `token_ids` [n]. Raises EngineError for embeddings that are no numbers:
        rewards would come out of them."""
        rows = self._rows[np.asarray(token_ids, dtype=np.int64)]
        if self._bfloat16:
            wide = rows.astype(np.uint32)
            rows = np.left_shift(wide, 16, out=wide).view(np.float32)
        rows = rows.astype(np.float32, copy=False)
        if not np.isfinite(rows).all():
            raise EngineError(f"{self._file}: its token embeddings hold values that are not finite")
        return rows
