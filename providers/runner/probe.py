"""Whether the model server on a loopback port is the one that knows a key."""

from __future__ import annotations

import http.client

_TIMEOUT_S = 2


def answers(port: int, *, key: str) -> bool:
    """Asks with the key and without a prompt, on a connection that goes through no proxy. An
    impostor on a port that a dead child left learns only the dead child's key."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", "/v1/models", headers={"authorization": f"Bearer {key}"})
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
