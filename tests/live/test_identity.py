"""Keys in files, challenges, and certificates that keys vouch for."""

import asyncio
import ssl
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_der_x509_certificate

from lattice_core.chain.keys import Key, key_of
from lattice_live.node import tls
from lattice_live.node.identity import Challenge, IdentityError, Joining, Terms, join, new_key, open_key, save_key

NODE, OTHER = key_of(1), key_of(2)
TERMS = Terms(nexus=0, node=3, chain_id=31337, registry=bytes(range(20)))
URL = "http://127.0.0.1:7001"
MODELS = {"small": "ab" * 32, "large": "cd" * 32}


def test_a_key_file_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    file = tmp_path / "node.key"
    key = open_key(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert open_key(file) == key != new_key()


def test_a_saved_key_is_read_again_and_replaces_no_other(tmp_path: Path) -> None:
    file = tmp_path / "node.key"
    save_key(file, NODE)
    save_key(file, NODE)
    assert open_key(file) == NODE
    with pytest.raises(IdentityError, match=r"node\.key: exists, and holds another key"):
        save_key(file, OTHER)


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        ("ab" * 32, 0o640, "must be readable by its owner only"),
        ("ab" * 31, 0o600, "must hold a private key, 64 hexadecimal digits"),
        ("00" * 32, 0o600, "must hold a private key"),
        ("secret", 0o600, "must hold a private key"),
    ],
)
def test_a_key_file_that_others_read_or_that_holds_none_is_refused_by_name(
    tmp_path: Path, content: str, mode: int, said: str
) -> None:
    file = tmp_path / "node.key"
    file.write_text(content)
    file.chmod(mode)
    with pytest.raises(IdentityError, match=rf"node\.key: {said}"):
        open_key(file)


def test_a_key_file_in_no_folder_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match=r"node\.key: cannot be written: No such file"):
        open_key(tmp_path / "none" / "node.key")


def test_the_owners_node_is_accepted_once() -> None:
    challenge = Challenge(TERMS)
    joining = join(NODE, TERMS, challenge.nonce, URL, MODELS)
    challenge.accept(joining, URL, NODE.address)
    with pytest.raises(IdentityError, match="answered before"):
        challenge.accept(joining, URL, NODE.address)


def signed(key: Key = NODE, terms: Terms = TERMS, url: str = URL) -> Callable[[bytes], Joining]:
    return lambda nonce: join(key, terms, nonce, url, MODELS)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (signed(OTHER), "must be signed by 0x"),
        (signed(terms=TERMS._replace(nexus=1)), "must be signed by 0x"),
        (signed(terms=TERMS._replace(node=4)), "must be signed by 0x"),
        (signed(terms=TERMS._replace(chain_id=1)), "must be signed by 0x"),
        (signed(terms=TERMS._replace(registry=bytes(20))), "must be signed by 0x"),
        (lambda nonce: signed()(bytes(32)), "must be signed by 0x"),  # an answer to an earlier challenge
        (signed(url="http://127.0.0.1:7002"), "says that it is reached at http://127.0.0.1:7002"),
        (lambda nonce: signed(url="http://127.0.0.1:7002")(nonce)._replace(url=URL), "must be signed by 0x"),  # passed on
        (lambda nonce: signed()(nonce)._replace(models=MODELS | {"large": "ef" * 32}), "must be signed by 0x"),
        (lambda nonce: signed()(nonce)._replace(models={"small": "ab" * 32}), "must be signed by 0x"),
        (lambda nonce: signed()(nonce)._replace(signature=b"x" * 65), "not a signature"),
        (lambda nonce: signed()(nonce)._replace(signature=b""), "not a signature"),
    ],
)
def test_a_wrong_key_an_old_nonce_or_any_altered_part_is_refused(answer: Callable[[bytes], Joining], said: str) -> None:
    challenge = Challenge(TERMS)
    with pytest.raises(IdentityError, match=said):
        challenge.accept(answer(challenge.nonce), URL, NODE.address)


def certificate(folder: Path, name: str, key: Key) -> Path:
    return tls.open_certificate(key, folder / f"{name}.pem")


def test_a_certificate_is_made_once_and_names_the_key_that_vouches_for_it(tmp_path: Path) -> None:
    file = certificate(tmp_path, "node", NODE)
    made = tls.read(file)
    assert tls.owner(made) == NODE.address
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert tls.read(tls.public(certificate(tmp_path, "node", NODE))) == made
    assert b"PRIVATE" not in tls.public(file).read_bytes()
    with pytest.raises(IdentityError, match=r"node\.pem: must hold a certificate of 0x"):
        certificate(tmp_path, "node", OTHER)


def test_a_chain_keys_word_for_one_certificate_is_none_for_another(tmp_path: Path) -> None:
    ours, theirs = (tls.read(certificate(tmp_path, f"{key.address.hex()}", key)) for key in (NODE, OTHER))
    word = load_der_x509_certificate(ours).extensions.get_extension_for_oid(tls.VOUCHER).value.value  # type: ignore[attr-defined]
    other = load_der_x509_certificate(theirs).extensions.get_extension_for_oid(tls.VOUCHER).value.value  # type: ignore[attr-defined]
    stolen = theirs.replace(other, word)
    assert load_der_x509_certificate(stolen).public_bytes(Encoding.DER) != theirs
    with suppress(IdentityError):  # it need not be anybody's signature
        assert tls.owner(stolen) not in (NODE.address, OTHER.address)


def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path: Path) -> None:
    made = tls.read(certificate(tmp_path, "node", NODE))
    with pytest.raises(IdentityError, match="no chain key vouches for"):
        tls.owner(made.replace(tls_oid(), tls_oid()[:-1] + b"\x01"))
    with pytest.raises(IdentityError, match="no chain key vouches for"):
        tls.owner(b"paper")
    (tmp_path / "x.pem").write_text("paper")
    with pytest.raises(IdentityError, match=r"x\.pem: must hold a certificate in PEM"):
        tls.read(tmp_path / "x.pem")


def tls_oid() -> bytes:
    """The identifier of the extension in DER, its last byte being below 0x80."""
    value, arcs = int(tls.VOUCHER.dotted_string.split(".")[-1]), []
    while value:
        arcs.append(value & 0x7F | (0x80 if arcs else 0))
        value >>= 7
    return bytes(reversed(arcs))


async def talk(server: ssl.SSLContext, client: ssl.SSLContext) -> bytes:
    """What a client hears (nothing, if the two do not agree) who says a word to a server that says it back."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        writer.close()

    async with asyncio.timeout(20), await asyncio.start_server(echo, "127.0.0.1", 0, ssl=server) as listening:
        port = listening.sockets[0].getsockname()[1]
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client)
        except ssl.SSLError:
            return b""
        try:
            writer.write(b"word\n")
            return await reader.read()
        except OSError:
            return b""  # the server learns who the client is after the client is through with the server
        finally:
            writer.transport.abort()


def test_over_tls_a_node_and_its_nexus_understand_each_other_and_no_stranger(tmp_path: Path) -> None:
    node, nexus, stranger = (certificate(tmp_path, str(number), key_of(number)) for number in range(3))
    server = tls.node_context(node, tls.read(nexus))
    assert asyncio.run(talk(server, tls.nexus_context(nexus, tls.read(node)))) == b"word\n"
    assert asyncio.run(talk(server, tls.nexus_context(nexus))) == b"word\n"  # on the first meeting
    assert asyncio.run(talk(server, tls.nexus_context(stranger))) == b""
    assert asyncio.run(talk(tls.node_context(stranger, tls.read(nexus)), tls.nexus_context(nexus, tls.read(node)))) == b""
    nameless = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    nameless.check_hostname, nameless.verify_mode = False, ssl.CERT_NONE
    assert asyncio.run(talk(server, nameless)) == b""


def test_on_the_first_meeting_the_nexus_learns_the_nodes_certificate(tmp_path: Path) -> None:
    node, nexus = (certificate(tmp_path, str(number), key_of(number)) for number in range(2))

    async def scenario() -> bytes:
        async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        server = tls.node_context(node, tls.read(nexus))
        async with await asyncio.start_server(hear, "127.0.0.1", 0, ssl=server) as listening:
            return await tls.meet("127.0.0.1", listening.sockets[0].getsockname()[1], nexus)

    assert asyncio.run(scenario()) == tls.read(node)
