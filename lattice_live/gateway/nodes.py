"""Routes of nodes that come by themselves, and of what they and their owners must know.

POST   /v1/nodes              a node's application → its number; the same node may apply again, and is taken back
GET    /v1/nodes              every node: its offers, state and work
POST   /v1/nodes/{id}/drain   no more requests go there, what it has it finishes
DELETE /v1/nodes/{id}         the same, and then it leaves for good
GET    /v1/network            what a node must know before it applies
GET    /v1/wallet             the money of the account whose key asks
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

from lattice_core.config import Config
from lattice_core.units import NANO
from lattice_live.application import Application, Errand
from lattice_live.gateway.errors import Refusal
from lattice_live.gateway.principals import ADMIN, Principal
from lattice_live.gateway.wire import read
from lattice_live.models.folder import Manifest

if TYPE_CHECKING:
    from lattice_live.network import Network

MAX_BODY_BYTES = 1 << 16


def routes(network: "Network", authenticate: Callable[..., Principal]) -> APIRouter:
    """The endpoints; `authenticate(request, scope)` finds the principal of a request or raises its refusal."""
    router, members, config = APIRouter(), network.members, network.config
    settlement, driver = network.settlement, network.driver

    @router.post("/v1/nodes", response_model=None, openapi_extra=_body_of(Application))
    async def apply(request: Request) -> Response:
        application = await read(request, Application, MAX_BODY_BYTES)
        if application.cluster is not None:
            authenticate(request, ADMIN)
        node = await members.admit(application)
        return JSONResponse({"node": node, "nexus": 0, "state": "up"})

    @router.get("/v1/nodes", response_model=None)
    async def list_nodes() -> Response:
        return JSONResponse({"object": "list", "data": members.rows()})

    @router.post("/v1/nodes/{node}/drain", response_model=None)
    async def drain(request: Request, node: str) -> Response:
        number = entitled(request, node, "drain")
        return JSONResponse({"node": number, "state": "draining", "in_flight": members.drain(number)})

    @router.delete("/v1/nodes/{node}", response_model=None)
    async def dismiss(request: Request, node: str) -> Response:
        number = entitled(request, node, "leave")
        await members.dismiss(number)
        return JSONResponse({"node": number, "state": "left"})

    @router.get("/v1/network", response_model=None)
    async def describe() -> Response:
        listing, bonds = settlement.listing, config.economics.bonds
        served = {name: _model(config, name, model) for name, model in members.models.items()}
        chain = {
            "backend": config.chain.backend,
            "url": config.chain.url if settlement.remote else None,
            "id": listing.chain_id,
            "book": listing.book.hex(),
            "registry": listing.contracts["NodeRegistry"].hex(),
            "tokenomics": listing.contracts["Tokenomics"].hex(),
            "away": settlement.away or None,
            "epoch_s": config.chain.epoch_ns / NANO,
        }
        bond = {"minimum_nlai": bonds.minimum_nlai, "reference_nlai": bonds.reference_nlai}
        return JSONResponse(
            {
                "name": config.name,
                "nexus": 0,
                "epoch": driver.nexus.count("epoch"),
                "tls": config.live.tls,
                "chain": chain,
                "bond": bond,
                "clusters": [name for name in driver.nexus.clusters if name],
                "models": served,
            }
        )

    @router.get("/v1/wallet", response_model=None)
    async def wallet(request: Request) -> Response:
        caller = authenticate(request)
        row = driver.nexus.table("accounts")[caller.account]
        return JSONResponse({"account": caller.account, "purchased": _money(row, ""), "faucet": _money(row, "faucet_")})

    def entitled(request: Request, text: str, errand: Errand) -> int:
        """The number of a node for which the caller may ask this."""
        if not text.isdecimal() or len(text) > 9 or not members.knows(int(text)):
            raise Refusal(404, "unknown_node", f"node: there is no node {text!r}")
        header = request.headers.get("authorization", "")
        if header.startswith("Node "):
            members.check_errand(int(text), errand, header)
        else:
            authenticate(request, ADMIN)
        return int(text)

    return router


def _body_of(kind: type[BaseModel]) -> dict[str, Any]:
    """What OpenAPI says of a body that is read by hand."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": kind.model_json_schema()}}}}


def _model(config: Config, name: str, model: Manifest) -> dict[str, Any]:
    """What a node must know to serve a model: where its weights are had, unless they are a file of the Nexus's machine."""
    weights = config.models[name].weights
    assert weights is not None  # it is served
    source = {"seed": weights.seed, "pull": weights.pull, "variant": weights.variant}
    return {
        "kind": config.models[name].kind,
        "context": config.models[name].context_tok,
        "model_hash": model.model_hash,
        "variant": model.variant,
        "weights": source if weights.seed is not None or weights.pull is not None else None,
        "price_in_nlai": config.models[name].reference.price_input_nlai,
        "price_out_nlai": config.models[name].reference.price_output_nlai,
    }


def _money(row: Any, kind: str) -> dict[str, int]:
    """Where an account's nanoLAI of one kind of credit are."""
    places = {"free": f"{kind}free", "held": f"{kind}held", "debit": f"{kind}debit", "unsettled": f"{kind}unsettled"}
    places |= {"overdue": f"{kind}overdue", "spent": f"{kind}spent"}
    places |= {"granted": "granted"} if kind else {"withdrawn": "withdrawn", "deposited": "deposited"}
    return {f"{name}_nlai": int(row[f"{column}_nlai"]) for name, column in places.items()}
