"""The Nexus's HTTP interface to users: OpenAI's API, and what of the network stands behind it."""

from lattice_live.gateway.application import application
from lattice_live.gateway.schemas import Chat, Completion
from lattice_live.gateway.service import Gateway

__all__ = ["Chat", "Completion", "Gateway", "application"]
