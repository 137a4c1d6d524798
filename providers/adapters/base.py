"""What an adapter is: code that speaks one upstream's API, one attempt at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from chat.errors import UnsupportedEndpoint
from chat.relays import Relay, RelayRequest
from chat.requests import ChatRequest, EmbeddingsRequest
from chat.text_completions import TextRequest
from chat.types import Batch, ModelInfo, Reply, RunningModel, Wire
from providers.adapters.credential import without
from providers.adapters.text_over_chat import complete_over_chat, stream_over_chat
from providers.capabilities import Capabilities
from providers.http import MAX_BODY, HttpClient, HttpReply, Timeouts
from providers.outbound import OutboundPolicy

if TYPE_CHECKING:
    from providers.adapters.relayed import RelayedReply


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where and as whom to ask: plain values, so that no database row crosses this line.

    `base_url` is empty where the kind's default holds. `model` is the upstream's own name.
    """

    base_url: str
    api_key: str
    model: str
    timeouts: Timeouts = Timeouts()
    capabilities: Capabilities = Capabilities()
    options: Mapping[str, Any] = field(default_factory=dict)
    content_policy: OutboundPolicy = OutboundPolicy.for_tools()
    """Where content that callers name by URL may be fetched from, for upstreams that take none."""


class ChatAdapter(ABC):
    """Speaks to one model of one upstream. Never retries, prices, logs, or knows Django; raises
    only GatewayError, which says whether it is retryable; lets go of its response in any case."""

    kind: ClassVar[str]
    wire: ClassVar[Wire] = "openai"
    """What the upstream speaks. A request whose caller speaks it too may pass through untouched
    (`ChatRequest.native`), and its answer come back so (`Batch.wire`, `Reply.wire`)."""
    defaults: ClassVar[Capabilities] = Capabilities()
    default_base_url: ClassVar[str | None] = None
    needs_key: ClassVar[bool] = False
    """Whether an upstream of this kind cannot be asked without a credential."""
    relays: ClassVar[frozenset[Relay]] = frozenset()
    """Endpoints whose requests and answers are passed through as they are."""

    def __init__(self, endpoint: Endpoint, http: HttpClient) -> None:
        self.endpoint = endpoint
        self.http = http

    def capabilities_for(self, request: ChatRequest) -> Capabilities:
        """The model's flags as they hold for this request: some abilities exclude each other. What
        is missing is imitated (`providers.emulation.plan`)."""
        return self.endpoint.capabilities

    @classmethod
    def defaults_at(cls, base_url: str) -> Capabilities:
        """What an upstream of a row with this address can do, where nothing else is known."""
        return cls.defaults

    @classmethod
    def speaks_responses(cls, options: Mapping[str, Any]) -> bool:
        """Whether upstreams of a row with these options have OpenAI's Responses API, so that a
        request on the wire `responses` may pass through."""
        return False

    async def forget_response(self, response_id: str) -> None:
        """Deletes a response the upstream keeps. Raises UpstreamError, and UnsupportedEndpoint
        where the kind keeps none."""
        raise UnsupportedEndpoint(f"Providers of the kind {self.kind} keep no responses.")

    async def read_whole(self, reply: HttpReply, *, limit: int = MAX_BODY) -> bytes:
        """An answer's body without our credential (M42). Raises what the reply's `read` raises."""
        return without(await reply.read(limit=limit), self.endpoint.api_key)

    @abstractmethod
    async def complete(self, request: ChatRequest) -> Reply:
        """The whole answer in one piece."""

    @abstractmethod
    def stream(self, request: ChatRequest) -> AsyncGenerator[Batch]:
        """The answer as it comes. Chunks that arrived together come as one batch, because a
        generator step per chunk costs more than the chunk; the last ones carry the usage."""

    @abstractmethod
    async def list_models(self) -> list[ModelInfo]:
        """The models this upstream offers to this credential."""

    async def count_tokens(self, body: dict[str, Any], headers: Mapping[str, str]) -> Reply | None:
        """What Anthropic's `POST /v1/messages/count_tokens` answers to this body and these headers
        of its wire; None where the upstream does not speak it."""
        return None

    async def count_prompt(self, request: ChatRequest) -> int | None:
        """The tokens of a chat's prompt as the upstream counts them; None where it does not. Raises
        GatewayError."""
        return None

    async def list_running(self) -> list[RunningModel]:
        """The models this upstream has loaded; none where it does not tell."""
        return []

    async def embed(self, request: EmbeddingsRequest) -> Reply:
        """Embeddings in the OpenAI shape, as floats or base64 as the request says (its absence
        means floats, or on the same wire whatever the upstream takes it to mean). Raises
        UnsupportedEndpoint where the upstream has none."""
        raise UnsupportedEndpoint(
            f"The model '{self.endpoint.model}' of a provider of the kind {self.kind} has no "
            "embeddings.",
            param="model",
        )

    async def complete_text(self, request: TextRequest) -> Reply:
        """A legacy text completion: over chat, unless the upstream has them itself. Raises
        InvalidRequest for what only those can do."""
        return await complete_over_chat(self, request)

    def stream_text(self, request: TextRequest) -> AsyncGenerator[Batch]:
        """`complete_text` as it comes, in chunks whose deltas hold the text."""
        return stream_over_chat(self, request)

    async def relay(self, request: RelayRequest) -> RelayedReply:
        """The upstream's own good answer to a request of one of `relays`, to be read and closed by
        the caller. Raises UnsupportedEndpoint where the upstream has no such endpoint."""
        raise UnsupportedEndpoint(f"Providers of the kind {self.kind} have no {request.relay}.")
