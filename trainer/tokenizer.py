"""Text to token ids by a SentencePiece model, given or trained on the training texts.

The conventions are those of SigLIP in big_vision: lower case, a fixed length, an end mark that survives
truncation ("sticky"), and padding with id 1, so that the last token is always the end mark or padding.
"""

import hashlib
import io
import itertools
from collections.abc import Iterable, Sequence

import numpy as np
import sentencepiece

from schemas import storage
from schemas.errors import ConfigError, DataError

FILE_NAME = "tokenizer.model"
END = 1
_TRAINING_TEXTS = 200_000


class Tokenizer:
    """A SentencePiece model and the length it pads to. Pickles as the model's bytes."""

    def __init__(self, model: bytes, length: int):
        self.model = model
        self.length = length
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise ConfigError(f"tokenizer is not a SentencePiece model: {error}") from None

    def __reduce__(self):
        return Tokenizer, (self.model, self.length)

    @property
    def vocabulary(self) -> int:
        """The number of token ids."""
        return self._processor.GetPieceSize()

    @property
    def fingerprint(self) -> str:
        """sha256 of the model file."""
        return hashlib.sha256(self.model).hexdigest()

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Returns int32 token ids [texts, length]."""
        tokens = np.full((len(texts), self.length), END, np.int32)
        for row, ids in zip(tokens, self._processor.Encode([t.lower() for t in texts]), strict=True):
            kept = ids[: self.length - 1]
            row[: len(kept)] = kept
        return tokens


def load(path: str, length: int) -> Tokenizer:
    """Loads a SentencePiece model file."""
    try:
        model = storage.read_bytes(path)
    except OSError as error:
        raise ConfigError(f"tokenizer {path} cannot be read: {error}") from None
    return Tokenizer(model, length)


def train(texts: Iterable[str], vocabulary: int, length: int) -> Tokenizer:
    """Trains a unigram tokenizer of at most `vocabulary` ids, reproducibly, on the first 200,000 texts.

    Raises:
      DataError: there are no words to learn from.
    """
    lines = [" ".join(text.lower().split()) for text in itertools.islice(texts, _TRAINING_TEXTS)]
    if not any(lines):
        raise DataError("no tokenizer can be trained: the corpus has no text. Give one with --tokenizer")
    output = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(lines),
        model_writer=output,
        vocab_size=vocabulary,
        hard_vocab_limit=False,  # few texts hold few pieces
        character_coverage=0.9995,
        pad_id=0, eos_id=END, unk_id=2, bos_id=-1,
        num_threads=1,  # its sums depend on the number of threads
        minloglevel=2,
    )  # fmt: skip
    return Tokenizer(output.getvalue(), length)
