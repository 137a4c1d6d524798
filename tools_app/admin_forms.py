"""Forms of the tools' admin pages: headers and secrets can be written, and never read."""

from __future__ import annotations

from typing import Any

from django import forms
from unfold.widgets import (
    UnfoldAdminPasswordWidget,
    UnfoldAdminTextareaWidget,
    UnfoldBooleanWidget,
)

from tools_app.models import (
    MAX_TIMEOUT_S,
    MIN_SECRET_LENGTH,
    Kind,
    McpServer,
    Tool,
    make_signing_secret,
    validate_headers,
)

TIMEOUT_HELP = f"Seconds for a whole call, {MAX_TIMEOUT_S:g} at most."


class HeadersField(forms.CharField):
    """`Name: value`, one a line, as a dictionary; None where nothing was written."""

    widget = UnfoldAdminTextareaWidget(attrs={"rows": 4})

    def to_python(self, value: Any) -> Any:
        lines = [line.strip() for line in (value or "").splitlines() if line.strip()]
        pairs = [line.partition(":")[::2] for line in lines]
        headers = {name.strip(): text.strip() for name, text in pairs}
        if headers:
            validate_headers(headers)
        return headers or None


class RemoteForm(forms.ModelForm):  # type: ignore[type-arg]
    new_headers = HeadersField(
        label="New headers",
        required=False,
        help_text="One “Name: value” a line, in place of all that are stored. Stored encrypted and "
        "never shown again. Empty: what is stored stays.",
    )
    remove_headers = forms.BooleanField(
        label="Remove the stored headers", required=False, widget=UnfoldBooleanWidget
    )

    class Meta:
        model = McpServer
        fields = ()
        help_texts = {
            "enabled": "Switched off, its tools do not exist.",
            "timeout_s": TIMEOUT_HELP,
        }

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        new, remove = cleaned.get("new_headers"), cleaned.get("remove_headers")
        if new and remove:
            self.add_error("remove_headers", "Enter new headers or remove the stored, not both.")
        elif self.instance.headers and "url" in self.changed_data and not (new or remove):
            # A write-only credential could be read by sending it to one's own address (M43).
            self.add_error("new_headers", "The address changes: enter the headers again for it.")
        return cleaned

    def save(self, commit: bool = True) -> Any:
        new, remove = self.cleaned_data.get("new_headers"), self.cleaned_data.get("remove_headers")
        if new or remove:
            self.instance.set_headers(new or {})
        return super().save(commit)


class ToolForm(RemoteForm):
    new_secret = forms.CharField(
        label="New signing secret",
        required=False,
        min_length=MIN_SECRET_LENGTH,
        widget=UnfoldAdminPasswordWidget(attrs={"autocomplete": "new-password"}),
        help_text="Empty: what is stored stays, and a new HTTP tool gets one made. "
        "manage.py show_tool_secret NAME prints it.",
    )

    class Meta:
        model = Tool
        fields = ()
        help_texts = {
            "name": "What requests and models call it by.",
            "kind": "The gateway runs calls only for requests that ask for it; the caller runs "
            "them otherwise.",
            "enabled": "Switched off, it does not exist.",
            "description": "Told to the model.",
            "parameters": "A JSON Schema of an object.",
            "timeout_s": TIMEOUT_HELP,
        }

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean()
        is_http = cleaned.get("kind") == Kind.HTTP
        if cleaned.get("new_secret") and not is_http:
            self.add_error("new_secret", "Only the calls of HTTP tools are signed.")
        if cleaned.get("new_headers") and cleaned.get("kind") == Kind.CLIENT:
            self.add_error("new_headers", "A client tool is sent nothing.")
        return cleaned

    def save(self, commit: bool = True) -> Any:
        tool = self.instance
        if tool.kind != Kind.HTTP:
            tool.set_signing_secret("")
        elif self.cleaned_data.get("new_secret") or not tool.signing_secret:
            tool.set_signing_secret(self.cleaned_data.get("new_secret") or make_signing_secret())
        if tool.kind == Kind.CLIENT:
            tool.set_headers({})
        return super().save(commit)
