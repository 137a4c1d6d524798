"""Models with names that no header could carry as they are."""

from __future__ import annotations

import pytest

from tests.gateway import Gateway
from tests.upstream import Upstream, completion, whole

pytestmark = pytest.mark.once

HELLO = [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/api/chat"])
@pytest.mark.parametrize("name", ["a\x00b", "a\nb", "a\x7f\x1bb", "\u6a21\u578b \xe9"])
def test_a_name_of_any_characters_is_told_in_a_header(
    gateway: Gateway, upstream: Upstream, path: str, name: str
) -> None:
    upstream.script = whole(200, completion())
    asked = {"model": f"scripted/{name}", "messages": HELLO, "max_tokens": 9, "stream": False}
    answered = gateway.post(path, asked)
    assert answered.status == 200
    assert answered.headers["x-gateway-model"] == name.encode("unicode_escape").decode()
    assert upstream.asked[0].json()["model"] == name
