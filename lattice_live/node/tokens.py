"""Byte-level tokens: ids 0 to 255 are bytes of UTF-8, then the marks of beginning and end."""

import codecs

BEGIN = 256
END = 257
VOCABULARY = 258


def encode(text: str) -> list[int]:
    """Token ids of a prompt: BEGIN, then its UTF-8 bytes; what UTF-8 cannot hold (a lone surrogate) becomes `?`."""
    return [BEGIN, *text.encode("utf-8", "replace")]


class Detokeniser:
    """Text from token ids as they come: a character that spans several tokens appears with its last byte."""

    def __init__(self) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token: int) -> str:
        """The text that `token` completes: often one character, empty for a mark or within a character."""
        return self._utf8.decode(bytes([token])) if token < BEGIN else ""

    def finish(self) -> str:
        """What is left when the answer ends: U+FFFD if it ends within a character, else nothing."""
        return self._utf8.decode(b"", final=True)
