"""The form of a virtual key."""

from __future__ import annotations

from typing import Any

from django import forms
from unfold.widgets import UnfoldAdminTextareaWidget

from keys.models import VirtualKey


class GlobListField(forms.CharField):
    """A list of globs, one a line. Empty is None: everything."""

    widget = UnfoldAdminTextareaWidget(attrs={"rows": 4})

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(map(str, value)) if isinstance(value, list) else value

    def to_python(self, value: Any) -> Any:
        lines = (line.strip() for line in (value or "").splitlines())
        return [line for line in lines if line] or None

    def has_changed(self, initial: Any, data: Any) -> bool:
        return bool((initial or None) != self.to_python(data))


class VirtualKeyForm(forms.ModelForm):  # type: ignore[type-arg]
    allowed_models = GlobListField(
        label="Allowed models",
        required=False,
        help_text="A name or glob on the public name a line, such as smart or openai/*. "
        "Empty: everything.",
    )

    allowed_tools = GlobListField(
        label="Allowed tools",
        required=False,
        help_text="A name or glob on the names of registered tools a line, such as get_*. "
        "Empty: all of them.",
    )

    class Meta:
        model = VirtualKey
        fields = ()
