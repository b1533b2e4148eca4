"""The gateway's routes, an ASGI application; /openapi.json describes them.

    POST /v1/chat/completions, /v1/completions    an answer, whole or as server-sent events
    GET  /v1/models, /v1/models/{model}           what is served
    GET  /v1/chats, GET|DELETE /v1/chats/{session}          chats that were asked to be stored
    GET  /v1/explain/{request}                    why an ended request went where it went
    GET  /v1/organisation, GET|POST /v1/members, /v1/keys, DELETE /v1/members/{name}, /v1/keys/{key}    who may ask
    GET  /healthz, /metrics                       need no key

The routes of nodes stand in `nodes`.
"""

import json
import time
from functools import cache
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from lattice_core.state import OUTCOMES, REASONS, UP
from lattice_live.gateway import nodes, schemas
from lattice_live.gateway.errors import Refusal
from lattice_live.gateway.metrics import MEDIA_TYPE
from lattice_live.gateway.principals import ADMIN, CHAT, EXPLAIN, MODELS, Key
from lattice_live.gateway.service import Gateway
from lattice_live.gateway.wire import Doorman, read
from lattice_live.membership import MembershipError

CHAIN_RETRY_S = 10
"""When a node may come back that met a chain which is away."""

BODIES = (schemas.Chat, schemas.Completion, schemas.NewMember, schemas.NewKey)


def application(gateway: Gateway) -> ASGIApp:
    """The ASGI application of `gateway`."""
    began_s = int(time.time())
    app = FastAPI(title="Lattice", version="1", docs_url=None, redoc_url=None)

    async def chat_completions(request: Request) -> None:
        """Answer a chat."""
        await gateway.serve(request, schemas.Chat)

    async def completions(request: Request) -> None:
        """Continue a text, or token ids."""
        await gateway.serve(request, schemas.Completion)

    straight = {"/v1/chat/completions": chat_completions, "/v1/completions": completions}
    bodies: list[tuple[type[BaseModel], type[BaseModel]]] = [
        (schemas.Chat, schemas.ChatAnswer),
        (schemas.Completion, schemas.TextAnswer),
    ]
    for (path, endpoint), (body, answer) in zip(straight.items(), bodies, strict=True):
        documented = _documented(answer, 400, 402, 403, 404, 408, 409, 413, 429, 500, 502, 503, 504, body=body)
        documented["responses"][200]["content"] = {"text/event-stream": {"schema": {"type": "string"}}}
        app.router.add_api_route(path, endpoint, methods=["POST"], **documented)

    @app.get("/v1/models", **_documented(schemas.ModelList, 403))
    async def list_models(request: Request) -> Response:
        """The models that nodes serve."""
        gateway.authenticate(request, MODELS)
        return _list([model_entry(name) for name in served()])

    @app.get("/v1/models/{model:path}", **_documented(schemas.ModelEntry, 403, 404))
    async def read_model(request: Request, model: str) -> Response:
        """A model."""
        gateway.authenticate(request, MODELS)
        if model not in served():
            raise Refusal(404, "model_not_found", f"model: must be one of {', '.join(served())}, not {model!r}", "model")
        return JSONResponse(model_entry(model))

    def served() -> list[str]:
        return sorted(gateway.models[model] for model in gateway.offers.models())

    def model_entry(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": began_s, "owned_by": "lattice"}

    @app.get("/v1/chats", **_documented(schemas.Chats, 403))
    async def list_chats(request: Request) -> Response:
        """The asker's stored chats."""
        return _list(gateway.chats.list(gateway.authenticate(request, CHAT)))

    @app.get("/v1/chats/{session}", **_documented(schemas.StoredChat, 403, 404))
    async def read_chat(request: Request, session: str) -> Response:
        """A stored chat."""
        return JSONResponse(gateway.chats.read(gateway.authenticate(request, CHAT), session))

    @app.delete("/v1/chats/{session}", **_documented(schemas.Deleted, 403, 404))
    async def forget_chat(request: Request, session: str) -> Response:
        """Forget a stored chat."""
        gateway.chats.forget(gateway.authenticate(request, CHAT), session)
        return await deleted(session)

    @app.get("/v1/explain/{request_id}", **_documented(schemas.Explanation, 403, 404))
    async def explain(request: Request, request_id: str) -> Response:
        """Why an ended request went where it went; for its owner, and for a while."""
        principal = gateway.authenticate(request, EXPLAIN)
        ended = gateway.ended.get(int(request_id)) if request_id.isdecimal() and len(request_id) < 20 else None
        if ended is None or not principal.owns(ended.principal):
            raise Refusal(404, "no_such_request", "no request of yours that is remembered has this number")
        status = ended.status
        return JSONResponse(
            {
                "request": status.request,
                "model": ended.model,
                "outcome": OUTCOMES[status.outcome],
                "reason": REASONS[status.reason],
                "fee_nlai": status.fee_nlai,
                "legs": orjson.loads(ended.legs),
                "candidates": [factor._asdict() for factor in gateway.nexus.explain(status.request)],
            }
        )

    @app.get("/v1/organisation", **_documented(schemas.OrganisationEntry, 403))
    async def organisation(request: Request) -> Response:
        """Who pays for this key."""
        principal = gateway.authenticate(request)
        return JSONResponse({"name": principal.key.organisation, "account": principal.account})

    @app.get("/v1/members", **_documented(schemas.Members, 403))
    async def list_members(request: Request) -> Response:
        """Who belongs to the organisation."""
        of = gateway.authenticate(request, ADMIN).key.organisation
        return _list([{"name": name, "role": role} for name, role in gateway.principals.members(of).items()])

    @app.post("/v1/members", **_documented(schemas.MemberEntry, 400, 403, 408, 409, 413, body=schemas.NewMember))
    async def add_member(request: Request) -> Response:
        """Let somebody belong to it."""
        of = gateway.authenticate(request, ADMIN).key.organisation
        new = await read(request, schemas.NewMember)
        gateway.principals.add_member(of, new.name, new.role)
        await gateway.storage.durable()
        return JSONResponse({"name": new.name, "role": new.role})

    @app.delete("/v1/members/{name}", **_documented(schemas.Deleted, 403, 404, 409))
    async def drop_member(request: Request, name: str) -> Response:
        """Let somebody go, and with him his keys."""
        gateway.principals.drop_member(gateway.authenticate(request, ADMIN).key.organisation, name)
        return await deleted(name)

    @app.get("/v1/keys", **_documented(schemas.Keys, 403))
    async def list_keys(request: Request) -> Response:
        """The organisation's keys, without themselves."""
        of = gateway.authenticate(request, ADMIN).key.organisation
        return _list([key_entry(key) for key in gateway.principals.keys(of)])

    @app.post("/v1/keys", **_documented(schemas.FreshKey, 400, 403, 404, 408, 413, body=schemas.NewKey))
    async def add_key(request: Request) -> Response:
        """Give out a key, which is said this once."""
        asker = gateway.authenticate(request, ADMIN).key
        new = await read(request, schemas.NewKey)
        terms = new.model_dump(exclude={"member", "scopes"})
        scopes = tuple(dict.fromkeys(new.scopes))
        member = new.member or asker.member
        secret, key = gateway.principals.issue(
            Key("", asker.organisation, member, scopes=scopes, created_s=int(time.time()), **terms)
        )
        await gateway.storage.durable()
        return JSONResponse({**key_entry(key), "key": secret})

    @app.delete("/v1/keys/{key}", **_documented(schemas.Deleted, 403, 404, 409))
    async def drop_key(request: Request, key: str) -> Response:
        """Take a key back."""
        gateway.principals.drop_key(gateway.authenticate(request, ADMIN).key.organisation, key)
        return await deleted(key)

    def key_entry(key: Key) -> dict[str, Any]:
        said = {**key._asdict(), "scopes": list(key.scopes), "spent_nlai": gateway.principals.spent_nlai(key)}
        del said["organisation"]
        return said

    async def deleted(id: str) -> Response:
        await gateway.storage.durable()
        return JSONResponse({"id": id, "deleted": True})

    @app.get("/healthz", **_documented(schemas.Health, 503, key=False))
    async def healthz() -> Response:
        """How the network is."""
        nexus = gateway.nexus
        counts = {name: nexus.count(name) for name in ("epoch", "arrived", "completed", "failed", "rejected", "in_flight")}
        nodes_up = int((nexus.table("nodes")["status"] == UP).sum())
        status = "draining" if gateway.draining else "ok"
        return JSONResponse({"status": status, "nodes_up": nodes_up, **counts}, 503 if gateway.draining else 200)

    @app.get("/metrics", **_documented(None, key=False))
    async def metrics() -> Response:
        """Counters, for Prometheus."""
        return Response(gateway.metrics.text(), media_type=MEDIA_TYPE)

    errors: dict[int | str, dict[str, Any]] = {
        code: {"model": schemas.Error} for code in (400, 401, 403, 404, 408, 409, 413, 503)
    }
    app.include_router(nodes.routes(gateway.network, gateway.authenticate), responses=errors)

    async def refuse(request: Request, error: Exception) -> Response:
        if isinstance(error, ClientDisconnect):
            return Response(status_code=499)  # nobody reads it
        if isinstance(error, MembershipError):
            after = {"Retry-After": str(CHAIN_RETRY_S)} if error.status == 503 else None
            error = Refusal(error.status, error.code, str(error), headers=after)
        if not isinstance(error, HTTPException):
            error = Refusal(500, "internal_error", "the Nexus made a mistake; its log says which")
        if not isinstance(error, Refusal):
            message = f"{request.method} {request.url.path}: {error.detail}"
            error = Refusal(error.status_code, "unknown_url", message, headers=error.headers)
        return JSONResponse(error.body(), error.status_code, headers=error.headers)

    for kind in (HTTPException, ClientDisconnect, MembershipError, Exception):
        app.add_exception_handler(kind, refuse)
    app.openapi = cache(lambda: _described(app))  # type: ignore[method-assign]
    return Doorman(app, gateway.metrics.answered, straight, refuse)


def _list(data: list[dict[str, Any]]) -> Response:
    return JSONResponse({"object": "list", "data": data})


def _documented(
    answer: type[BaseModel] | None, *errors: int, body: type[BaseModel] | None = None, key: bool = True
) -> dict[str, Any]:
    """What the description says of a route: its answer, how else it may end, the body it takes, whether it needs a key."""
    responses: dict[int, dict[str, Any]] = {code: {"model": schemas.Error} for code in (*errors, *((401,) if key else ()))}
    responses[200] = {"content": {"text/plain": {"schema": {"type": "string"}}}} if answer is None else {"model": answer}
    extra: dict[str, Any] = {"security": [{"key": []}]} if key else {}
    if body is not None:
        schema = {"$ref": f"#/components/schemas/{body.__name__}"}
        extra["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return {"response_model": None, "responses": responses, "openapi_extra": extra}


def _described(app: FastAPI) -> dict[str, Any]:
    """The description of the API, with the bodies that its routes read themselves."""
    described = get_openapi(title=app.title, version=app.version, routes=app.routes)
    _, bodies = models_json_schema([(kind, "validation") for kind in BODIES], ref_template="#/components/schemas/{model}")
    components = described.setdefault("components", {})
    components["schemas"] = {**components.get("schemas", {}), **bodies["$defs"]}
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path in described["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)  # routes read what they take themselves
            for body in operation.get("requestBody", {}).get("content", {}).values():
                components["schemas"] |= body["schema"].pop("$defs", {})
    whole: dict[str, Any] = json.loads(json.dumps(described).replace('"#/$defs/', '"#/components/schemas/'))
    return whole
