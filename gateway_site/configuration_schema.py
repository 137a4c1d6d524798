"""The configuration file's shape. A field that is not here is an error.

What an entry leaves out has the default of its column.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, TypeVar

from django.core.exceptions import ValidationError
from django.db.models import Model
from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from keys.models import (
    MIN_SECRET_LENGTH,
    BudgetPeriod,
    VirtualKey,
    validate_globs,
    validate_tool_globs,
)
from providers.models import (
    Deployment,
    Kind,
    Provider,
    Route,
    Strategy,
    validate_base_url,
    validate_capabilities,
    validate_name,
    validate_variable,
)
from tools_app import models as tools

T = TypeVar("T")

NOT_AVAILABLE = "not available in this version"
LATER_STRATEGIES = ("weighted", "cheapest", "fastest")
_VISIBLE = re.compile(r"[\x21-\x7e]+")


def default(model: type[Model], column: str) -> Any:
    return model._meta.get_field(column).get_default()  # type: ignore[union-attr]


def checked_by(validate: Callable[[Any], None]) -> AfterValidator:
    """A Django validator as pydantic's."""

    def check(value: T) -> T:
        try:
            validate(value)
        except ValidationError as error:
            raise ValueError(" ".join(error.messages)) from None
        return value

    return AfterValidator(check)


def one_of(allowed: Iterable[str]) -> AfterValidator:
    def check(value: str) -> str:
        if value not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}")
        return value

    return AfterValidator(check)


def check_credential(value: str) -> str:
    """A header's value: visible ASCII. Raises ValueError."""
    if not _VISIBLE.fullmatch(value):
        raise ValueError("must be visible ASCII characters without spaces")
    return value


def check_secret(value: str) -> str:
    """Raises ValueError."""
    if len(value) < MIN_SECRET_LENGTH:
        raise ValueError(f"must have {MIN_SECRET_LENGTH} characters or more")
    return check_credential(value)


def check_model(value: str) -> str:
    if not value.isprintable() or value != value.strip() or not value:
        raise ValueError("must be the upstream's name of a model")
    return value


def check_strategy(value: str) -> str:
    if value in LATER_STRATEGIES:
        raise ValueError(NOT_AVAILABLE)
    if value not in Strategy.values:
        raise ValueError(f"must be one of {', '.join(Strategy.values)}")
    return value


def refuse(_: object) -> None:
    raise ValueError(NOT_AVAILABLE)


def list_of_every(noun: str) -> BeforeValidator:
    def check(value: T | None) -> T:
        # A key whose list was emptied by hand must not come to mean "everything".
        if value is None:
            raise ValueError(f"needs a list; leave the field out to allow every {noun}")
        return value

    return BeforeValidator(check)


def read_usd(value: object) -> Decimal:
    """A number or a string of one, exactly. Raises ValueError."""
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        raise ValueError("must be an amount of dollars") from None
    if not amount.is_finite():
        raise ValueError("must be an amount of dollars")
    return amount


def read_moment(value: object) -> datetime:
    """RFC 3339, or a date: its midnight in UTC. Raises ValueError."""
    if not isinstance(value, str):
        raise ValueError("must be a date and time, such as 2026-01-31T00:00:00Z")
    try:
        moment = datetime.fromisoformat(f"{value}T00:00:00Z" if len(value) == 10 else value)
        if moment.tzinfo is None:
            raise ValueError
        return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(
            "must be a date and time with its zone, such as 2026-01-31T00:00:00Z"
        ) from None


Name = Annotated[str, checked_by(validate_name)]
ToolName = Annotated[str, checked_by(tools.validate_tool_name)]
ToolUrl = Annotated[str, Field(max_length=tools.MAX_URL), checked_by(tools.validate_tool_url)]
Variable = Annotated[str, Field(max_length=100), checked_by(validate_variable)]
ModelName = Annotated[str, Field(max_length=200), AfterValidator(check_model)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Part = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Failures = Annotated[int, Field(ge=0, le=2**15 - 1)]
Usd = Annotated[Decimal, BeforeValidator(read_usd), Field(ge=0, max_digits=14, decimal_places=6)]
Moment = Annotated[datetime, BeforeValidator(read_moment)]
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
NotAvailable = Annotated[None, BeforeValidator(refuse)]


class Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class TimeoutsEntry(Entry):
    connect: Seconds = default(Provider, "timeout_connect_s")
    first_byte: Seconds = default(Provider, "timeout_first_byte_s")
    idle: Seconds = default(Provider, "timeout_idle_s")
    total: Seconds = default(Provider, "timeout_total_s")


class ProviderBreakerEntry(Entry):
    """When a deployment is not asked for a while (`providers.breaker`)."""

    failures: Failures = default(Provider, "breaker_failures")
    rate: Part = default(Provider, "breaker_rate")
    window_s: Seconds = default(Provider, "breaker_window_s")
    open_s: Seconds = default(Provider, "breaker_open_s")


class BreakerEntry(Entry):
    """The same of one deployment; what is not named is its provider's."""

    failures: Failures | None = None
    rate: Part | None = None
    window_s: Seconds | None = None
    open_s: Seconds | None = None


def breaker_columns(entry: ProviderBreakerEntry | BreakerEntry) -> dict[str, Any]:
    return {f"breaker_{name}": value for name, value in entry.model_dump().items()}


class ProviderEntry(Entry):
    name: Name
    kind: Annotated[str, one_of(Kind.values)]
    enabled: bool = default(Provider, "enabled")
    base_url: Annotated[str, Field(max_length=500), checked_by(validate_base_url)] = ""
    base_url_env: Variable = ""
    api_key: Annotated[str, AfterValidator(check_credential)] = Field(default="", repr=False)
    api_key_env: Variable = ""
    timeout_s: Seconds | None = None
    timeouts: TimeoutsEntry | None = None
    max_retries: Annotated[int, Field(ge=0, le=2**15 - 1)] = default(Provider, "max_retries")
    options: dict[str, Any] = default(Provider, "options")
    breaker: ProviderBreakerEntry = ProviderBreakerEntry()

    @model_validator(mode="after")
    def _agree(self) -> ProviderEntry:
        if self.api_key and self.api_key_env:
            raise ValueError("api_key and api_key_env exclude one another")
        if self.timeout_s is not None and self.timeouts is not None:
            raise ValueError("timeout_s and timeouts exclude one another")
        try:
            Provider(**self.columns()).clean()
        except ValidationError as error:
            raise ValueError(" ".join(error.messages)) from None
        return self

    def columns(self) -> dict[str, Any]:
        """What the row holds, without its credential."""
        timeouts = self.timeouts or TimeoutsEntry()
        if self.timeout_s is not None:
            timeouts = TimeoutsEntry(first_byte=self.timeout_s, idle=self.timeout_s)
        return {
            "kind": self.kind,
            "enabled": self.enabled,
            "base_url": self.base_url,
            "base_url_env": self.base_url_env,
            "timeout_connect_s": timeouts.connect,
            "timeout_first_byte_s": timeouts.first_byte,
            "timeout_idle_s": timeouts.idle,
            "timeout_total_s": timeouts.total,
            "max_retries": self.max_retries,
            "options": self.options,
            **breaker_columns(self.breaker),
        }


class PriceEntry(Entry):
    """USD per million tokens."""

    input: Usd
    output: Usd
    cached_input: Usd | None = None
    cache_write: Usd | None = None

    def columns(self) -> dict[str, Any]:
        return self.model_dump()


class DatedPriceEntry(PriceEntry):
    valid_from: Moment


class DeploymentEntry(Entry):
    provider: Name
    model: ModelName
    enabled: bool = default(Deployment, "enabled")
    price: PriceEntry | None = None
    prices: list[DatedPriceEntry] | None = None
    capabilities: Annotated[dict[str, bool], checked_by(validate_capabilities)] = default(
        Deployment, "capabilities"
    )
    context_window: Count | None = None
    breaker: BreakerEntry = BreakerEntry()

    @model_validator(mode="after")
    def _agree(self) -> DeploymentEntry:
        if self.price is not None and self.prices is not None:
            raise ValueError("price and prices exclude one another")
        dates = [price.valid_from for price in self.prices or ()]
        if len(set(dates)) < len(dates):
            raise ValueError("two prices are valid from the same moment")
        return self

    def columns(self) -> dict[str, Any]:
        return {
            "enabled": self.enabled,
            "capabilities": self.capabilities,
            "context_window": self.context_window,
            **breaker_columns(self.breaker),
        }


class TargetEntry(Entry):
    provider: Name
    model: ModelName
    weight: NotAvailable = None


class RouteEntry(Entry):
    name: Name
    strategy: Annotated[str, AfterValidator(check_strategy)] = default(Route, "strategy")
    enabled: bool = default(Route, "enabled")
    targets: list[TargetEntry]

    def columns(self) -> dict[str, Any]:
        return {"strategy": self.strategy, "enabled": self.enabled}


class KeyEntry(Entry):
    name: Name
    secret: Annotated[str, AfterValidator(check_secret)] = Field(default="", repr=False)
    secret_env: Variable = ""
    enabled: bool = default(VirtualKey, "enabled")
    admin: bool = default(VirtualKey, "admin")
    models: Annotated[list[str] | None, list_of_every("model"), checked_by(validate_globs)] = None
    tools: Annotated[list[str] | None, list_of_every("tool"), checked_by(validate_tool_globs)] = (
        None
    )
    rpm: Count | None = None
    tpm: Annotated[int, Field(ge=1, le=2**63 - 1)] | None = None
    max_parallel: Count | None = None
    budget_usd: Usd | None = None
    budget_period: Annotated[str, one_of(BudgetPeriod.values)] = default(
        VirtualKey, "budget_period"
    )
    expires_at: Moment | None = None

    @model_validator(mode="after")
    def _agree(self) -> KeyEntry:
        if self.secret and self.secret_env:
            raise ValueError("secret and secret_env exclude one another")
        return self

    def columns(self) -> dict[str, Any]:
        """What the row holds, without its secret."""
        named = self.model_dump(exclude={"name", "secret", "secret_env", "models", "tools"})
        return {**named, "allowed_models": self.models, "allowed_tools": self.tools}


class RemoteEntry(Entry):
    """What tools and MCP servers have in common."""

    name: ToolName
    url: ToolUrl
    headers: Annotated[dict[str, str], checked_by(tools.validate_headers)] = Field(
        default={}, repr=False
    )
    headers_env: Variable = ""
    timeout_s: Annotated[float, Field(gt=0, le=tools.MAX_TIMEOUT_S)] = Field(
        default=default(tools.Tool, "timeout_s"),
        validation_alias=AliasChoices("timeout_s", "timeout"),  # the API's name
    )
    enabled: bool = default(tools.Tool, "enabled")

    @model_validator(mode="after")
    def _one_source_of_headers(self) -> RemoteEntry:
        if self.headers and self.headers_env:
            raise ValueError("headers and headers_env exclude one another")
        return self

    def columns(self) -> dict[str, Any]:
        """What the row holds, without its secrets."""
        return {"url": self.url, "timeout_s": self.timeout_s, "enabled": self.enabled}


class McpServerEntry(RemoteEntry):
    pass


class ToolEntry(RemoteEntry):
    url: ToolUrl = ""
    kind: Annotated[str, one_of(tools.Kind.values)]
    description: str = default(tools.Tool, "description")
    parameters: Annotated[dict[str, Any], checked_by(tools.validate_parameters)] = Field(
        default_factory=tools.any_object
    )
    secret: Annotated[str, AfterValidator(check_secret)] = Field(default="", repr=False)
    secret_env: Variable = ""

    @model_validator(mode="after")
    def _agree(self) -> ToolEntry:
        if self.kind == tools.Kind.CLIENT:
            if self.url or self.headers or self.headers_env:
                raise ValueError("a client tool has no url and no headers: its caller runs it")
        elif not self.url:
            raise ValueError(f"a tool of the kind {self.kind} needs a url")
        if self.secret and self.secret_env:
            raise ValueError("secret and secret_env exclude one another")
        if self.kind != tools.Kind.HTTP and (self.secret or self.secret_env):
            raise ValueError("only the calls of http tools are signed with a secret")
        return self

    def columns(self) -> dict[str, Any]:
        named = {"kind": self.kind, "description": self.description, "parameters": self.parameters}
        return {**named, **super().columns()}


class Configuration(Entry):
    providers: list[ProviderEntry] = []
    deployments: list[DeploymentEntry] = []
    routes: list[RouteEntry] = []
    keys: list[KeyEntry] = []
    tools: list[ToolEntry] = []
    mcp_servers: list[McpServerEntry] = []
