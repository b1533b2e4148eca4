"""The bodies of requests, and those of answers as the API's description shows them.

What the nodes cannot honour is refused by name, never ignored. What asks for nothing (a null, an empty list of tools, the only
format there is) is let through, and so are labels that change no answer (`user`, `metadata`, …).
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from lattice_core.units import MAX_SUPPLY_NLAI
from lattice_live.gateway.errors import UNSUPPORTED
from lattice_live.node.sampling import MAX_TOP_LOGPROBS, Sampling

MAX_NODES = 64
"""The longest list of nodes."""


class Body(BaseModel):
    """The body of a request: nothing but what stands here."""

    model_config = ConfigDict(extra="forbid")


def _refuse(value: object) -> None:
    if value is None or value == [] or value == {}:
        return None
    raise PydanticCustomError(UNSUPPORTED, "cannot be honoured by the nodes of this network; leave it out")


type Refused = Annotated[None, BeforeValidator(_refuse)]
"""A parameter of OpenAI's that may only be absent or empty."""

type Natural = Annotated[int, Field(ge=0, lt=2**31)]
type Tokens = Annotated[int, Field(ge=1, lt=2**31)]
type Stop = Annotated[str, Field(min_length=1, max_length=256)]
type Session = Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]{1,64}$")]
type Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9._@-]{1,64}$")]
type Bias = Annotated[float, Field(ge=-100.0, le=100.0)]
type Zero = Annotated[float, Field(ge=0.0, le=0.0)]


COLDEST = 1e-4
"""Below this temperature nothing but the likeliest token is ever drawn, and logits divided by it would overflow."""

_BIASES = {
    "type": "object",
    "patternProperties": {"^(0|[1-9][0-9]{0,8})$": {"type": "number", "minimum": -100, "maximum": 100}},
    "additionalProperties": False,
}


class Preferences(Body):
    """What a user wants of the network."""

    prefer: Literal["balanced", "cheap", "fast", "best"] = "balanced"
    """What the choice of a node is to weigh more."""
    private: bool = False
    """Serve it within the account's own cluster only."""
    max_price_nlai: Annotated[int, Field(ge=1, le=MAX_SUPPLY_NLAI)] | None = None
    """The most that the whole request may cost."""
    allow: Annotated[list[Natural], Field(min_length=1, max_length=MAX_NODES)] | None = None
    """The only nodes that may serve it."""
    deny: Annotated[list[Natural], Field(max_length=MAX_NODES)] | None = None
    """Nodes that may not."""
    session: Session | None = None
    """Name of the chat: nodes that have read its beginning need not read it again."""
    history: Literal["off", "device", "stored"] = "off"
    """Whether the chat is kept: nowhere, by the user's own device, or here, to be read at /v1/chats."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.allow and self.deny:
            raise ValueError("must have allow or deny, not both")
        if self.history == "stored" and self.session is None:
            raise ValueError("history: stored needs a session, the name under which the chat is kept")
        return self


_BALANCED = Preferences()


class Part(Body):
    """A piece of a message's content."""

    type: Literal["text"]
    text: str


class Message(Body):
    """One turn of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]
    name: str | None = None
    # What clients send back of an assistant's earlier answer
    refusal: Refused = None
    audio: Refused = None
    annotations: Refused = None
    function_call: Refused = None
    tool_calls: Refused = None

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class Format(Body):
    """Of the answer: text."""

    type: Literal["text"]


class StreamOptions(Body):
    """What a stream carries besides the answer."""

    include_usage: bool = False
    include_obfuscation: Literal[False] | None = None


_TEMPLATE_ROLE = {"developer": "system"}


class Asked(Body):
    """What a chat and a text to be continued have in common."""

    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Tokens | None = None
    temperature: Annotated[float, Field(ge=0.0, le=2.0, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    top_k: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    min_p: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=10.0)] | None = None
    logit_bias: Annotated[dict[Natural, Bias], WithJsonSchema(_BIASES)] | None = None
    stop: Annotated[
        list[Stop],
        Field(max_length=4, default_factory=list),
        BeforeValidator(
            lambda stop: [stop] if isinstance(stop, str) else [] if stop is None else stop,
            json_schema_input_type=Stop | Annotated[list[Stop], Field(max_length=4)] | None,
        ),
    ]
    """Strings that end the answer."""
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    n: Literal[1] | None = None
    lattice: Annotated[Preferences, Field(default_factory=lambda: _BALANCED)]
    # Labels, and what is so anyway
    user: str | None = None
    frequency_penalty: Zero | None = None
    presence_penalty: Zero | None = None

    @property
    def answer_tok(self) -> int | None:
        """The longest answer, if there is a limit."""
        return self.max_tokens

    @property
    def top(self) -> int | None:
        """How many rivals of each token are asked for; None where not even its own probability is."""
        raise NotImplementedError

    def sampling(self, seed: int) -> Sampling:
        """How tokens are drawn; `seed` if the user gives none."""
        asked: dict[str, Any] = {
            "temperature": 0.0 if self.temperature is not None and self.temperature < COLDEST else self.temperature,
            "top_k": self.top_k,
            "top_p": self.top_p,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "logit_bias": self.logit_bias,
            "top_logprobs": self.top,
        }
        given = {name: value for name, value in asked.items() if value is not None}
        return Sampling(seed=seed if self.seed is None else self.seed % 2**63, **given)


class Chat(Asked):
    """The body of a chat request."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: Tokens | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    response_format: Format | None = None
    modalities: list[Literal["text"]] | None = None
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    function_call: Literal["none", "auto"] | None = None
    metadata: dict[str, str] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    parallel_tool_calls: bool | None = None
    tools: Refused = None
    functions: Refused = None
    audio: Refused = None
    prediction: Refused = None
    reasoning_effort: Refused = None
    verbosity: Refused = None
    web_search_options: Refused = None

    @model_validator(mode="after")
    def _logprobs_first(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        return self

    @property
    def answer_tok(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def top(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def turns(self) -> list[dict[str, str]]:
        """The messages as chat templates know them: what a developer says, they call the system's."""
        return [{"role": _TEMPLATE_ROLE.get(message.role, message.role), "content": message.text} for message in self.messages]


COMPLETION_TOK = 16
"""OpenAI's longest answer to a prompt that says nothing of it."""


def _sole(prompt: object) -> object:
    """The prompt of a list of one."""
    alone = isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list)
    return prompt[0] if alone else prompt  # type: ignore[index]


type Ids = Annotated[list[Natural], Field(min_length=1)]
type _Sole[T] = Annotated[list[T], Field(min_length=1, max_length=1)]


class Completion(Asked):
    """The body of a request to continue a text, or token ids."""

    prompt: Annotated[str | Ids, BeforeValidator(_sole, json_schema_input_type=str | Ids | _Sole[str] | _Sole[Ids])]
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    best_of: Literal[1] | None = None
    echo: Literal[False] | None = None
    suffix: Refused = None

    @property
    def answer_tok(self) -> int | None:
        return self.max_tokens or COMPLETION_TOK

    @property
    def top(self) -> int | None:
        return self.logprobs


class NewMember(Body):
    """Somebody who is to belong to the organisation."""

    name: Label
    role: Literal["owner", "member"] = "member"


class NewKey(Body):
    """A key that is to be given out."""

    name: Label
    """What to call it."""
    member: Label | None = None
    """Whose it is; by default of whoever asks."""
    scopes: Annotated[list[Literal["chat", "models", "explain", "admin"]], Field(min_length=1, max_length=4)] = [
        "chat",
        "models",
        "explain",
    ]
    """What it opens."""
    expires_s: Annotated[int, Field(ge=0, lt=2**53)] | None = None
    """When it ends, in seconds since 1970; null for never."""
    requests_per_min: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """How many requests a minute it may make; null for any number."""
    budget_nlai: Annotated[int, Field(ge=0, le=MAX_SUPPLY_NLAI)] | None = None
    """What it may spend, in all; null for what the account holds."""


# What is answered. These describe; the gateway writes the same by hand.


class LegOfAnswer(BaseModel):
    """A node's part of an answer, with its signature under its receipt for it."""

    node: int
    address: str
    from_tok: int
    to_tok: int
    receipt: str | None


class PriceOfAnswer(BaseModel):
    """nanoLAI per million tokens, at the node that served last."""

    input: int
    output: int


class Lattice(BaseModel):
    """Who served an answer, at what price, with which receipts."""

    request: int
    fee_nlai: int
    price: PriceOfAnswer | None
    legs: list[LegOfAnswer]
    history: Literal["device", "stored"] | None = None


class Usage(BaseModel):
    """Tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Answered(BaseModel):
    """What all answers have in common."""

    id: str
    created: int
    model: str
    usage: Usage
    lattice: Lattice


class AnswerMessage(BaseModel):
    """The assistant's turn."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(BaseModel):
    """The answer to a chat."""

    index: int
    message: AnswerMessage
    logprobs: dict[str, Any] | None
    finish_reason: Literal["stop", "length"]


class ChatAnswer(Answered):
    """A whole answer to a chat."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]


class TextChoice(BaseModel):
    """What continues a text."""

    index: int
    text: str
    logprobs: dict[str, Any] | None
    finish_reason: Literal["stop", "length"]


class TextAnswer(Answered):
    """A whole answer to a text."""

    object: Literal["text_completion"]
    choices: list[TextChoice]


class ModelEntry(BaseModel):
    """A model that nodes serve."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(BaseModel):
    """What nodes serve."""

    object: Literal["list"]
    data: list[ModelEntry]


class OrganisationEntry(BaseModel):
    """Who pays."""

    name: str
    account: int


class MemberEntry(BaseModel):
    """Who belongs to an organisation."""

    name: str
    role: Literal["owner", "member"]


class KeyEntry(BaseModel):
    """A key, without itself."""

    id: str
    name: str
    member: str
    scopes: list[str]
    created_s: int
    expires_s: int | None
    requests_per_min: int | None
    budget_nlai: int | None
    spent_nlai: int


class FreshKey(KeyEntry):
    """A key, this once with itself."""

    key: str


class Deleted(BaseModel):
    """What is no more."""

    id: str
    deleted: Literal[True]


class ChatHead(BaseModel):
    """A stored chat, without its messages."""

    session: str
    model: str
    messages: int
    created_s: int
    updated_s: int


class StoredMessage(BaseModel):
    """A turn of it."""

    role: str
    content: str


class StoredChat(BaseModel):
    """A stored chat."""

    session: str
    model: str
    messages: list[StoredMessage]
    created_s: int
    updated_s: int


class Candidate(BaseModel):
    """A node that was considered for a leg: why it was dropped, or what its score was made of."""

    leg: int
    node: int
    offer: int
    dropped: str
    chosen: bool
    score: float
    seen: dict[str, float]


class Explanation(BaseModel):
    """How a request went, and why there."""

    request: int
    model: str
    outcome: str
    reason: str
    fee_nlai: int
    legs: list[LegOfAnswer]
    candidates: list[Candidate]


class Health(BaseModel):
    """How the network is, and what happened so far."""

    status: Literal["ok", "draining"]
    nodes_up: int
    epoch: int
    arrived: int
    completed: int
    failed: int
    rejected: int
    in_flight: int


class ErrorDetail(BaseModel):
    """What went wrong; `code` says it in a word."""

    message: str
    type: str
    param: str | None
    code: str


class Error(BaseModel):
    """An error in OpenAI's shape."""

    error: ErrorDetail


class Members(BaseModel):
    """Of an organisation."""

    object: Literal["list"]
    data: list[MemberEntry]


class Keys(BaseModel):
    """Those that the asker may see."""

    object: Literal["list"]
    data: list[KeyEntry]


class Chats(BaseModel):
    """Those that are stored, of the asker's own."""

    object: Literal["list"]
    data: list[ChatHead]
