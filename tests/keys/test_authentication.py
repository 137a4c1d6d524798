"""Who is asking: a key in one of three headers, or staff in a browser that means it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.http import HttpRequest
from django.middleware.csrf import get_token
from django.test import Client, RequestFactory, override_settings
from django.utils import timezone

from chat.errors import AuthenticationFailed, PermissionDenied
from keys.authentication import identify
from keys.caller import ANYONE, LOCAL
from keys.models import VirtualKey
from keys.ring import ring

pytestmark = pytest.mark.django_db(transaction=True)
SECRET = "gw-test-0123456789abcdef0123456789abcdef"
FOREIGN = {"REMOTE_ADDR": "192.0.2.7"}


def asked(path: str = "/v1/models", *, method: str = "GET", **meta: str) -> HttpRequest:
    request = RequestFactory().generic(method, path)
    request.META.update(FOREIGN | meta)
    return request


@pytest.fixture(autouse=True)
def empty_ring() -> Iterator[None]:
    ring.forget()
    ring.confirm()
    yield
    ring.forget()


def make_key(name: str = "ci", **fields: object) -> VirtualKey:
    key = VirtualKey(name=name)
    for field, value in fields.items():
        setattr(key, field, value)
    key.set_secret(SECRET)
    key.save()
    return key


@pytest.fixture
def key() -> VirtualKey:
    return make_key()


@pytest.mark.parametrize(
    "meta",
    [
        {"HTTP_AUTHORIZATION": f"Bearer {SECRET}"},
        {"HTTP_AUTHORIZATION": f"bearer   {SECRET} "},
        {"HTTP_X_API_KEY": SECRET},
        {"HTTP_API_KEY": SECRET},
    ],
    ids=["authorization", "untidy", "x-api-key", "api-key"],
)
async def test_a_key_is_known_in_each_of_its_headers(key: VirtualKey, meta: dict[str, str]) -> None:
    caller = await identify(asked(**meta))
    assert caller.name == "ci"


async def test_a_key_in_the_query_string_is_no_key(key: VirtualKey) -> None:
    for name in ("api_key", "api-key", "key", "access_token", "authorization"):
        with pytest.raises(AuthenticationFailed):
            await identify(asked(f"/v1/models?{name}={SECRET}"))


@pytest.mark.parametrize(
    "credential",
    [
        *("", "Bearer", "Bearer ", f"Basic {SECRET}", SECRET, f"Bearer {SECRET}x"),
        f"Bearer {SECRET[:-1]}",
        f"Bearer {'x' * 100_000}",
    ],
    ids=["empty", "bare", "blank", "basic", "no-scheme", "longer", "shorter", "endless"],
)
async def test_what_is_no_good_key_is_refused(key: VirtualKey, credential: str) -> None:
    with pytest.raises(AuthenticationFailed):
        await identify(asked(HTTP_AUTHORIZATION=credential))


async def test_a_bad_authorization_is_not_made_good_by_another_header(key: VirtualKey) -> None:
    with pytest.raises(AuthenticationFailed):
        await identify(asked(HTTP_AUTHORIZATION="Bearer wrong", HTTP_X_API_KEY=SECRET))


@pytest.fixture
def revoked() -> VirtualKey:
    return make_key(enabled=False)


@pytest.fixture
def expired() -> VirtualKey:
    return make_key(expires_at=timezone.now() - timedelta(seconds=1))


@pytest.mark.parametrize("state", ["revoked", "expired"])
def test_a_key_that_was_good_once_is_refused(state: str, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue(state)
    with pytest.raises(AuthenticationFailed):
        async_to_sync(identify)(asked(HTTP_X_API_KEY=SECRET))


async def test_a_refusal_repeats_nothing_of_what_was_presented(key: VirtualKey) -> None:
    with pytest.raises(AuthenticationFailed) as refused:
        await identify(asked(HTTP_X_API_KEY="gw-somebody-elses-secret"))
    assert "somebody" not in refused.value.message


async def test_nobody_is_asked_for_a_key_where_that_was_switched_off() -> None:
    with override_settings(AUTH_MODE="off"):
        assert await identify(asked()) is ANYONE


async def test_local_mode_lets_this_machine_in_and_no_other() -> None:
    with override_settings(AUTH_MODE="local"):
        assert await identify(asked(REMOTE_ADDR="127.0.0.1", HTTP_HOST="localhost")) is LOCAL
        with pytest.raises(AuthenticationFailed):
            await identify(asked(HTTP_HOST="localhost"))


# --- staff in a browser -----------------------------------------------------------------------


def signed_in(user: User) -> str:
    """The session cookie of somebody signed in to the admin."""
    client = Client()
    client.force_login(user)
    return f"sessionid={client.cookies['sessionid'].value}"


def csrf() -> tuple[str, str]:
    """A page's CSRF cookie and the token its scripts send along."""
    request = RequestFactory().get("/")
    token = get_token(request)
    return f"csrftoken={request.META['CSRF_COOKIE']}", token


@pytest.fixture
def staff() -> str:
    return signed_in(User.objects.create_user("ada", is_staff=True))


async def test_staff_may_read_with_their_session(staff: str) -> None:
    caller = await identify(asked(HTTP_COOKIE=staff))
    assert (caller.name, caller.is_admin) == ("staff:ada", True)


async def test_a_browser_that_posts_must_prove_it_means_to(staff: str) -> None:
    cookie, token = csrf()
    cookies = f"{staff}; {cookie}"
    caller = await identify(asked(method="POST", HTTP_COOKIE=cookies, HTTP_X_CSRFTOKEN=token))
    assert caller.name == "staff:ada"
    with pytest.raises(PermissionDenied):
        await identify(asked(method="POST", HTTP_COOKIE=cookies))
    with pytest.raises(PermissionDenied):
        await identify(asked(method="POST", HTTP_COOKIE=cookies, HTTP_X_CSRFTOKEN=csrf()[1]))


async def test_a_foreign_page_cannot_post_with_our_session(staff: str) -> None:
    cookie, token = csrf()
    forged = asked(
        method="POST",
        HTTP_COOKIE=f"{staff}; {cookie}",
        HTTP_X_CSRFTOKEN=token,
        HTTP_ORIGIN="https://evil.example",
    )
    with pytest.raises(PermissionDenied):
        await identify(forged)


@pytest.mark.parametrize(
    "told",
    [
        {"HTTP_ORIGIN": "https://evil.example"},
        {"HTTP_ORIGIN": "null"},
        {"HTTP_ORIGIN": "http://testserver:3000", "HTTP_SEC_FETCH_SITE": "same-site"},
        {"HTTP_SEC_FETCH_SITE": "cross-site", "HTTP_SEC_FETCH_MODE": "no-cors"},
        {"HTTP_SEC_FETCH_SITE": "same-site", "HTTP_SEC_FETCH_MODE": "no-cors"},
    ],
)
async def test_a_foreign_page_cannot_read_with_our_session(
    staff: str, told: dict[str, str]
) -> None:
    """A browser would keep the answer from it, but not an event stream from being held open."""
    with pytest.raises(PermissionDenied):
        await identify(asked(HTTP_COOKIE=staff, **told))


@pytest.mark.parametrize(
    "told",
    [
        {"HTTP_ORIGIN": "http://testserver", "HTTP_SEC_FETCH_SITE": "same-origin"},
        {"HTTP_SEC_FETCH_SITE": "none", "HTTP_SEC_FETCH_MODE": "navigate"},
        {"HTTP_SEC_FETCH_SITE": "cross-site", "HTTP_SEC_FETCH_MODE": "navigate"},
    ],
)
async def test_our_own_pages_and_links_read_with_our_session(
    staff: str, told: dict[str, str]
) -> None:
    assert (await identify(asked(HTTP_COOKIE=staff, **told))).name == "staff:ada"


@pytest.fixture(params=["customer", "inactive", "forged"])
def powerless(request: pytest.FixtureRequest) -> str:
    if request.param == "forged":
        return "sessionid=0123456789abcdef0123456789abcdef"
    user = User.objects.create_user("eve", is_staff=request.param == "inactive")
    cookie = signed_in(user)
    User.objects.update(is_active=request.param != "inactive")
    return cookie


async def test_a_session_without_staff_in_it_opens_nothing(powerless: str) -> None:
    with pytest.raises(AuthenticationFailed):
        await identify(asked(HTTP_COOKIE=powerless))


async def test_a_bad_key_is_not_made_good_by_a_session(staff: str) -> None:
    with pytest.raises(AuthenticationFailed):
        await identify(asked(HTTP_COOKIE=staff, HTTP_X_API_KEY="gw-wrong"))
