"""Text from a Hugging Face dataset, and tokenizers (extra `hf`): the same plan as `text`, another source of documents.

A dataset of the Hub is read over the network once and its documents kept in the cache, one JSON text a line, so a later
process and a worker need no network and see the same text. A newcomer would expect a newer upload to be noticed: it is
not; `revision` says what is read. Local files are read again in every process, because they may have changed.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from windtunnel.errors import InputError
from windtunnel.parts.data.corpus import held_out, unique
from windtunnel.parts.data.text import Text, as_tokenizer, text
from windtunnel.places import default_cache

_INSTALL = "pip install 'windtunnel[hf]'"
SEPARATOR = "<|endoftext|>"
_FORMATS = {".json": "json", ".jsonl": "json", ".txt": "text", ".csv": "csv", ".parquet": "parquet", ".arrow": "arrow"}


@dataclass(frozen=True)
class HuggingFace:
    """Documents of one split of a dataset: a name on the Hub, a file, or a folder written by `save_to_disk`."""

    dataset: str
    name: str | None = None
    split: str = "train"
    text_field: str = "text"
    streaming: bool = False
    count: int | None = None
    revision: str | None = None

    def __str__(self) -> str:
        return f"{self.dataset} ({self.split})"

    def documents(self) -> Iterator[str]:
        """The text of each row, in the dataset's order."""
        return _texts(self) if os.path.exists(self.dataset) else _kept(self)


@dataclass(frozen=True)
class TokenizerFile:
    """A tokenizer.json as the `tokenizers` library writes it. `end` names the token that ends a document."""

    path: str
    end: str = SEPARATOR

    @property
    def vocabulary(self) -> int:
        """Ids the tokenizer can give, added tokens included."""
        return _tokenizer(self.path).get_vocab_size(with_added_tokens=True)

    @property
    def separator(self) -> int:
        """The id of `end`."""
        number = _tokenizer(self.path).token_to_id(self.end)
        if number is None:
            special = [token.content for token in _tokenizer(self.path).get_added_tokens_decoder().values()]
            raise InputError(
                f"{self.path} has no token {self.end!r} to end a document with; its special tokens are "
                f"{', '.join(special) or 'none'}. Name one: tokenizer=TokenizerFile(path, end=...)."
            )
        return number

    def encode(self, text: str) -> np.ndarray:
        """Ids of a text; the names of special tokens inside it are read as plain text."""
        return np.array(_tokenizer(self.path).encode(text, add_special_tokens=False).ids, dtype=np.int64)

    def fingerprint(self) -> str:
        """Hash of the file's content."""
        _tokenizer(self.path)  # a missing file is named there
        return f"{hashlib.sha256(Path(self.path).read_bytes()).hexdigest()} {self.end}"


def huggingface(
    dataset: str | os.PathLike[str],
    *,
    name: str | None = None,
    split: str = "train",
    text_field: str = "text",
    streaming: bool = False,
    documents: int | None = None,
    revision: str | None = None,
    context: int = 128,
    tokenizer: Any = None,
    validation: float = 0.05,
    repeat: bool = False,
    cache: str | os.PathLike[str] | None = None,
) -> Text:
    """A Hugging Face dataset as data: its name on the Hub, a file, or a folder written by `save_to_disk`.

    `documents` takes the first so many rows (required with `streaming`); the validation share is held out of them, by
    document, whatever the split. The other options are those of `text`.
    """
    _library("datasets")
    if streaming and documents is None:
        raise InputError(f"Streaming {dataset} needs an end: say how many documents to read, documents=...")
    local = Path(dataset).expanduser()
    return Text(
        source=HuggingFace(
            dataset=os.path.abspath(local) if local.exists() else str(dataset),
            name=name,
            split=split,
            text_field=text_field,
            streaming=streaming,
            count=documents,
            revision=revision,
        ),
        context=context,
        tokenizer=as_tokenizer(tokenizer),
        validation=validation,
        repeat=repeat,
        cache=None if cache is None else os.path.abspath(cache),
    )


def train_bpe(
    patterns: str | os.PathLike[str] | list[str] | tuple[str, ...] | None = None,
    *,
    path: str | os.PathLike[str],
    documents: Iterable[str] | None = None,
    vocabulary: int = 4096,
    validation: float = 0.05,
) -> TokenizerFile:
    """Train a byte-level BPE on text files (as for `text`; None is the standard library) or on `documents`.

    Writes the tokenizer.json at `path`. Documents that the validation share holds out are not trained on.
    """
    library = _library("tokenizers")
    if vocabulary < 257:
        raise InputError(f"vocabulary is {vocabulary}; it must hold the 256 bytes and the separator, so at least 257.")
    source = text(patterns).source.documents() if documents is None else documents
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[SEPARATOR],
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((t for digest, t in unique(source) if not held_out(digest, validation)), trainer)
    _replace(Path(path), tokenizer.to_str(pretty=True).encode())
    _tokenizer.cache_clear()
    return TokenizerFile(os.path.abspath(path))


def _kept(source: HuggingFace) -> Iterator[str]:
    """Documents of a Hub dataset from the cache, fetched there first if need be."""
    request = hashlib.sha256(json.dumps(asdict(source), sort_keys=True).encode()).hexdigest()[:20]
    path = default_cache() / "hub" / f"{request}.jsonl"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, (json.dumps(document).encode() + b"\n" for document in _texts(source)))
    with open(path, encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _texts(source: HuggingFace) -> Iterator[str]:
    for row in islice(_rows(source), source.count):
        if not isinstance(row.get(source.text_field), str):
            raise InputError(
                f"{source} has no text in the field {source.text_field!r}; its fields are {', '.join(map(str, row))}. "
                f"Name the right one with text_field=..."
            )
        yield row[source.text_field]


def _rows(source: HuggingFace) -> Any:
    library, path = _library("datasets"), Path(source.dataset)
    try:
        if path.is_dir() and any(path.glob("*.json")):  # what save_to_disk leaves behind
            held = library.load_from_disk(str(path))
            return held[source.split] if isinstance(held, library.DatasetDict) else held
        if path.suffix in _FORMATS and path.is_file():
            return library.load_dataset(
                _FORMATS[path.suffix], data_files=str(path), split=source.split, streaming=source.streaming
            )
        return library.load_dataset(
            source.dataset, source.name, split=source.split, streaming=source.streaming, revision=source.revision
        )
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"The dataset {source} cannot be read: {error}. Check its name, name=... and split=..., or give a local "
            f"file or a folder written by save_to_disk."
        ) from error


@cache
def _tokenizer(path: str) -> Any:
    library = _library("tokenizers")
    if not Path(path).is_file():
        raise InputError(f"There is no tokenizer file {path}; give a tokenizer.json, or make one with train_bpe.")
    try:
        tokenizer = library.Tokenizer.from_file(path)
    except Exception as error:  # the library raises plain Exception
        raise InputError(f"{path} is not a tokenizer.json that the tokenizers library can read: {error}.") from error
    tokenizer.encode_special_tokens = True
    return tokenizer


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError(f"This needs the library {name}, which is not installed; run: {_INSTALL}") from None


def _replace(path: Path, pieces: bytes | Iterable[bytes]) -> None:
    """Write a file under a temporary name, flush it to disk, then give it its own name."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.absolute().parent)
    try:
        with open(descriptor, "wb") as file:
            file.writelines([pieces] if isinstance(pieces, bytes) else pieces)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes it private
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
