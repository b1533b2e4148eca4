"""A Nexus over HTTP, for commands that ask it something."""

import argparse
import os
from typing import Any

from lattice_core.config import ConfigError

ANSWER_S = 60.0
"""Ample for a node that is being met."""


class Client:
    """The Nexus at `url`. Raises ConfigError, in one line, for whatever it does not answer or refuses."""

    def __init__(self, url: str, api_key: str | None = None) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"{url}: must begin with http:// or https://")
        self.url = url.rstrip("/").removesuffix("/v1")
        self._api_key = api_key

    def ask(self, method: str, path: str, body: Any = None, authorization: str | None = None) -> Any:
        """What it answers; `authorization` stands in the place of the API key."""
        import requests

        if authorization is None and self._api_key:
            authorization = f"Bearer {self._api_key}"
        headers = {} if authorization is None else {"Authorization": authorization}
        try:
            reply = requests.request(method, f"{self.url}{path}", json=body, headers=headers, timeout=ANSWER_S)
            said = reply.json()
        except requests.ConnectionError:
            raise ConfigError(f"{self.url}: nobody answers there") from None
        except requests.Timeout:
            raise ConfigError(f"{self.url}: does not answer within {ANSWER_S:g} s") from None
        except (requests.RequestException, ValueError):
            raise ConfigError(f"{self.url}{path}: must be a Nexus, and answers no JSON") from None
        if not reply.ok:
            try:
                reason = said["error"]["message"]
            except (KeyError, TypeError):
                reason = f"HTTP {reply.status_code}"
            raise ConfigError(f"{self.url}: {reason}")
        return said


def add_nexus(parser: argparse.ArgumentParser) -> None:
    """`--nexus`."""
    parser.add_argument("--nexus", metavar="URL", required=True, help="where the Nexus listens, such as http://127.0.0.1:8080")


def add_api_key(parser: argparse.ArgumentParser) -> None:
    """`--api-key`."""
    parser.add_argument(
        "--api-key",
        metavar="KEY",
        default=os.environ.get("LATTICE_API_KEY"),
        help="a key that the network gave out; $LATTICE_API_KEY if not given",
    )


def lai(nlai: int) -> str:
    """Money for people."""
    return f"{nlai / 1e9:,.9f}".rstrip("0").rstrip(".")
