"""A model folder: the graph, its weights, the tokeniser, and a manifest that says what they are."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from hashlib import file_digest, sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lattice_live.models import ModelError
from lattice_live.models.architecture import Architecture

if TYPE_CHECKING:
    from lattice_live.models.quantise import Tensor
    from lattice_live.models.text import Text
    from lattice_live.models.tokeniser import Vocabulary

MANIFEST = "model.json"
GRAPH = "model.onnx"
PREFILL = "prefill.onnx"
"""The graph that reads prompts, where another does it better than GRAPH."""
DATA = "model.onnx.data"
TOKENISER = "tokenizer.json"
FILES = (GRAPH, DATA, TOKENISER)
MAX_MANIFEST_BYTES = 1 << 20

CONVERTER = "lattice-3"
"""Part of every model hash: a change that gives other weights or another graph from the same source gives it a new name."""

_SHOWN = ("layers", "hidden", "heads", "kv_heads", "head_dim", "vocabulary", "context")

type Count = Annotated[int, Field(ge=1, lt=2**31)]
type TokenId = Annotated[int, Field(ge=0, lt=2**31)]
type Sha256 = Annotated[str, Field(pattern=r"\A[0-9a-f]{64}\z")]


class Manifest(BaseModel):
    """model.json"""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    format: Literal["lattice-model"] = "lattice-model"
    version: Literal[1] = 1
    name: str
    architecture: Literal["llama", "qwen2"]
    layers: Count
    hidden: Count
    heads: Count
    kv_heads: Count
    head_dim: Count
    vocabulary: Count
    context: Count
    """Longest prompt and answer together, tokens."""
    kv_dtype: Literal["float32", "float16"]
    """Type of the cache of keys and values."""
    variant: Literal["fp32", "fp16", "int8", "q4"]
    end: Annotated[list[TokenId], Field(min_length=1)]
    """Tokens that end an answer."""
    begin: TokenId | None
    """The token that begins a text, put before a prompt if `add_begin`."""
    add_begin: bool
    chat_template: str | None
    """Jinja, as the model's authors wrote it."""
    bos_token: str
    """Text of `begin`, for the chat template; empty if there is none."""
    eos_token: str
    """Text of the model's main end mark."""
    licence: str
    source: str
    """What the model was made of, in words."""
    source_sha256: Sha256
    converter: str
    model_hash: Sha256
    """SHA-256 of "SOURCE_SHA256:VARIANT:CONVERTER"."""
    files: dict[str, Sha256]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if set(self.files) - {PREFILL} != set(FILES):
            raise ValueError(f"files: must be {', '.join(FILES)}, not {', '.join(sorted(self.files))}")
        if self.model_hash != model_hash(self.source_sha256, self.variant, self.converter):
            raise ValueError("model_hash: must be the SHA-256 of source_sha256:variant:converter")
        if (self.kv_dtype == "float16") != (self.variant == "fp16"):
            raise ValueError(f"kv_dtype: must be float16 in fp16 and float32 elsewhere, not {self.kv_dtype} in {self.variant}")
        if max(self.end) >= self.vocabulary or (self.begin or 0) >= self.vocabulary:
            raise ValueError(f"end, begin: must be below {self.vocabulary}, the vocabulary")
        if self.add_begin and self.begin is None:
            raise ValueError("add_begin: must be false without begin")
        return self


class ModelFolder:
    """A model on disk, whose manifest has been read."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """The model in folder `path`. Raises ModelError if it is none; the weights are not looked at, see `verify`."""
        path = Path(path)
        file = path / MANIFEST
        try:
            with open(file, "rb") as stream:
                text = stream.read(MAX_MANIFEST_BYTES + 1)
        except OSError as error:
            raise ModelError(f"{file}: cannot be read: {error.strerror}; a model folder has {MANIFEST}") from None
        if len(text) > MAX_MANIFEST_BYTES:
            raise ModelError(f"{file}: must have at most {MAX_MANIFEST_BYTES} bytes")
        try:
            manifest = Manifest.model_validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            key = ".".join(str(part) for part in first["loc"])
            said = f"{key}: {first['msg']}" if key else first["msg"].removeprefix("Value error, ")
            raise ModelError(f"{file}: {said}") from None
        for name in manifest.files:
            if not (path / name).is_file():
                raise ModelError(f"{path}: {name}: is missing; this model folder has {', '.join((MANIFEST, *manifest.files))}")
        return cls(path, manifest)

    def verify(self) -> None:
        """Read every file and raise ModelError if one is not what the manifest says."""
        for name, expected in self.manifest.files.items():
            found = digest(self.path / name)
            if found != expected:
                raise ModelError(f"{self.path / name}: SHA-256: must be {expected}, not {found}")

    @property
    def graph(self) -> Path:
        """The graph that writes answers."""
        return self.path / GRAPH

    @property
    def prefill(self) -> Path:
        """The graph that reads prompts; it may be the same."""
        return self.path / PREFILL if PREFILL in self.manifest.files else self.graph

    @property
    def size_bytes(self) -> int:
        """Size of its files."""
        return sum((self.path / name).stat().st_size for name in (MANIFEST, *self.manifest.files))

    @cached_property
    def text(self) -> "Text":
        """Its tokeniser and chat template."""
        from lattice_live.models.text import Text

        about = self.manifest
        return Text(
            self.path / TOKENISER,
            chat_template=about.chat_template,
            begin=about.begin,
            add_begin=about.add_begin,
            end=about.end,
            bos_token=about.bos_token,
            eos_token=about.eos_token,
        )


def model_hash(source_sha256: str, variant: str, converter: str) -> str:
    """The name that a node announces for what it serves, 64 hexadecimal digits."""
    return sha256(f"{source_sha256}:{variant}:{converter}".encode()).hexdigest()


def digest(file: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits. Raises ModelError if it cannot be read."""
    try:
        with open(file, "rb") as stream:
            return file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"{file}: cannot be read: {error.strerror}") from None


class Origin(NamedTuple):
    """What a model is called and where it comes from."""

    name: str
    licence: str
    source: str
    source_sha256: str


def make(
    path: Path,
    architecture: Architecture,
    weights: Mapping[str, "Tensor"],
    vocabulary: "Vocabulary",
    origin: Origin,
    variant: str,
    *,
    all_logits: bool = False,
) -> ModelFolder:
    """Write the model folder `path`, whole or not at all. Raises ModelError if something is there, or it cannot be written."""
    from lattice_live.models import graph  # only who makes models needs the libraries that write them

    with _making(path) as part:
        try:
            written = graph.write(part, architecture, weights, variant, all_logits=all_logits)
        except ModelError as error:
            raise ModelError(f"{origin.source}: {error}") from None
        vocabulary.tokeniser.save(str(part / TOKENISER))
        manifest = {
            **{key: getattr(architecture, key) for key in _SHOWN},
            **{key: value for key, value in vocabulary._asdict().items() if key != "tokeniser"},
            **origin._asdict(),
            "architecture": architecture.kind,
            "variant": variant,
            "kv_dtype": "float16" if variant == "fp16" else "float32",
            "converter": CONVERTER,
            "model_hash": model_hash(origin.source_sha256, variant, CONVERTER),
            "files": {name: digest(part / name) for name in (*written, TOKENISER)},
        }
        text = Manifest.model_validate(manifest).model_dump_json(indent=2)
        content = f"{text}\n".encode()
        if len(content) > MAX_MANIFEST_BYTES:
            raise ModelError(f"{origin.source}: name, licence and chat template: must have at most {MAX_MANIFEST_BYTES} bytes")
        (part / MANIFEST).write_bytes(content)
    return ModelFolder.open(path)


@contextmanager
def _making(path: Path) -> Iterator[Path]:
    """An empty folder beside `path`, which takes that name when all has gone well and goes away when it has not.

    Raises ModelError if `path` exists and is more than an empty folder.
    """
    try:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ModelError(f"{path}: exists; must be a new or an empty folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part"))
    except OSError as error:
        raise ModelError(f"{path}: cannot be written: {error.strerror}") from None
    try:
        yield part
        part.chmod(0o755)
        os.rename(part, path)
    except OSError as error:
        raise ModelError(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
