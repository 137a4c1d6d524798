"""Forms on their way through."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat.errors import InvalidRequest
from chat.forms import FormReader, boundary_of

BOUNDARY = "X-form"


def part(name: str, value: bytes, more: str = "") -> bytes:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'
    return head.encode() + value + b"\r\n"


END = f"--{BOUNDARY}--\r\n".encode()
FILE = part("file", b"\x00\r\n--\r\n-" * 50, '; filename="a.mp3"\r\nContent-Type: audio/mpeg')
FORM = part("model", b"openai/whisper-1") + FILE + part("empty", b"") + END


def read(form: bytes, *, cuts: list[int] | None = None) -> tuple[bytes, FormReader]:
    reader = FormReader(BOUNDARY, forbidden=frozenset({"api_base"}))
    borders = sorted({0, len(form), *(cuts or [])})
    passed = b"".join(
        reader.feed(form[start:end]) for start, end in zip(borders, borders[1:], strict=False)
    )
    reader.finish()
    return passed, reader


def rewritten(form: bytes, model: bytes, *, cuts: list[int] | None = None) -> bytes:
    passed, reader = read(form, cuts=cuts)
    assert reader.model_at is not None
    return passed[: reader.model_at] + model + passed[reader.model_at :]


@given(st.lists(st.integers(1, len(FORM) - 1), max_size=40))
def test_only_the_model_changes_however_the_form_is_cut(cuts: list[int]) -> None:
    assert rewritten(FORM, b"whisper-1", cuts=cuts) == FORM.replace(
        b"openai/whisper-1", b"whisper-1"
    )


def test_a_form_read_byte_by_byte_is_the_same() -> None:
    every = list(range(len(FORM)))
    assert rewritten(FORM, b"openai/whisper-1", cuts=every) == FORM


def test_a_model_may_stand_last() -> None:
    passed, reader = read(FILE + part("model", b"whisper-1") + END)
    assert reader.model == "whisper-1"
    assert reader.model_at is not None


def test_a_form_without_a_model_passes_as_it_is() -> None:
    passed, reader = read(FILE + END)
    assert (passed, reader.model, reader.model_at) == (FILE + END, None, None)


def test_all_but_a_boundarys_worth_is_passed_on_at_once() -> None:
    reader = FormReader(BOUNDARY)
    head = part("file", b"", '; filename="a"').removesuffix(b"\r\n")
    assert len(reader.feed(head + b"x" * 100_000)) > 100_000


@pytest.mark.parametrize(
    "form",
    [
        b"",
        b"hello",
        b"\r\n" + FORM,
        b"preamble\r\n" + FORM,
        FORM.removesuffix(END),
        FORM + b"epilogue",
        FORM + FORM,
        FORM.replace(b"\r\n", b"\n"),
        part("model", b"a") + part("model", b"b") + END,
        part("model", b"a") + part("Model", b"b") + END,
        part("model ", b"a") + END,
        part("model", b"a", '; filename="m"') + END,
        part("model", b"a\nb") + END,
        part("model", b"\xff") + END,
        part("model", b"x" * 1000) + END,
        part("api_base", b"http://evil.example") + END,
        part("a", b"x\n--X-form\r\nContent-Disposition: form-data; name=model\r\n\r\nb") + END,
        part("a", b"x--X-form") + END,
        part("a", b"x", '; name="model"') + END,
        part("a", b"x", "; name*=UTF-8''model") + END,
        part("a", b"x", "\r\n folded: yes") + END,
        part("a", b"x", "\r\nContent-Disposition: form-data; name=model") + END,
        part("a", b"x", "\r\nContent-Transfer-Encoding: base64") + END,
        part("a", b"x", "\nContent-Type: text/plain") + END,
        part("mo\\del", b"x") + END,
        f"--{BOUNDARY}\r\n\r\nx\r\n".encode() + END,
        f"--{BOUNDARY}\r\nContent-Disposition: attachment\r\n\r\nx\r\n".encode() + END,
        f"--{BOUNDARY} \r\n".encode() + FORM[10:],
        part("a", b"x", f"; x={'y' * 10_000}") + END,
        part("a", b"x") * 2000 + END,
    ],
)
def test_a_form_that_readers_may_read_differently_is_refused(form: bytes) -> None:
    with pytest.raises(InvalidRequest):
        read(form)


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ("multipart/form-data; boundary=abc", "abc"),
        ('multipart/form-data; boundary="a b"', None),
        ('multipart/form-data; boundary="a:b"', "a:b"),
        ("multipart/form-data; charset=utf-8; boundary=abc", "abc"),
        ("multipart/form-data", None),
        ("multipart/form-data; boundary=", None),
        ("multipart/form-data; boundary=a; boundary=b", None),
        ("multipart/form-data; boundary=" + "a" * 71, None),
    ],
)
def test_the_boundary_is_plain_or_refused(content_type: str, boundary: str | None) -> None:
    if boundary is not None:
        assert boundary_of(content_type) == boundary
        return
    with pytest.raises(InvalidRequest):
        boundary_of(content_type)
