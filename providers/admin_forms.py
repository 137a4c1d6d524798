"""Forms of the providers' admin pages: a write-only credential, three-way capabilities."""

from __future__ import annotations

from collections import Counter
from typing import Any

from django import forms
from unfold.forms import BaseDialogForm, PaginationInlineFormSet
from unfold.widgets import (
    UnfoldAdminPasswordWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextInputWidget,
    UnfoldBooleanWidget,
)

from providers.capabilities import CAPABILITY_NAMES
from providers.models import Deployment, Provider

OWN_VARIABLES = ("ABSTRACTCORE_", "DJANGO_", "DATABASE_URL", "REDIS_URL")
"""Beginnings of variables that hold the gateway's own secrets: no upstream may be sent those."""


class ProviderForm(forms.ModelForm):  # type: ignore[type-arg]
    new_api_key = forms.CharField(
        label="New API key",
        required=False,
        widget=UnfoldAdminPasswordWidget(attrs={"autocomplete": "new-password"}),
        help_text="Stored encrypted and never shown again. Empty: what is stored stays.",
    )
    remove_api_key = forms.BooleanField(
        label="Remove the stored API key", required=False, widget=UnfoldBooleanWidget
    )

    class Meta:
        model = Provider
        fields = ()

    def clean_api_key_env(self) -> str:
        return self._foreign_variable("api_key_env")

    def clean_base_url_env(self) -> str:
        return self._foreign_variable("base_url_env")

    def _foreign_variable(self, field: str) -> str:
        name: str = self.cleaned_data[field]
        if name.upper().startswith(OWN_VARIABLES):
            raise forms.ValidationError("This variable belongs to the gateway itself.")
        return name

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        new, remove = cleaned.get("new_api_key"), cleaned.get("remove_api_key")
        keeps = bool(self.instance.api_key) and not remove and not new
        if new and remove:
            self.add_error("remove_api_key", "Enter a new key or remove the stored one, not both.")
        if cleaned.get("api_key_env") and (new or keeps):
            self.add_error("api_key_env", "Store a key or name a variable, not both.")
        elif keeps and self._moves():
            # A write-only secret could be read by sending it to one's own address (M43).
            self.add_error("new_api_key", "The address changes: enter the key again for it.")
        return cleaned

    def _moves(self) -> bool:
        return bool({"kind", "base_url", "base_url_env"} & set(self.changed_data))

    def save(self, commit: bool = True) -> Provider:
        new, remove = self.cleaned_data.get("new_api_key"), self.cleaned_data.get("remove_api_key")
        if new or remove:
            self.instance.set_api_key(new or "")
        return super().save(commit)


UNSET = ("", "Default")
CHOICES = (UNSET, ("true", "Yes"), ("false", "No"))
_CODES = {None: "", True: "true", False: "false"}


class CapabilitiesWidget(forms.MultiWidget):
    """One three-way choice for each capability."""

    template_name = "providers/capabilities.html"

    def __init__(self) -> None:
        super().__init__(
            {
                name: UnfoldAdminSelectWidget(choices=CHOICES, attrs={"title": label(name)})
                for name in CAPABILITY_NAMES
            }
        )

    def decompress(self, value: Any) -> list[str]:
        flags = value if isinstance(value, dict) else {}
        return [_CODES.get(flags.get(name), "") for name in CAPABILITY_NAMES]


class CapabilitiesField(forms.MultiValueField):
    """The capabilities an operator knows better than the kind: `{"tools": False}`. What is left at
    its default is not in the dictionary."""

    def __init__(self, **options: Any) -> None:
        fields = [forms.ChoiceField(choices=CHOICES, required=False) for _ in CAPABILITY_NAMES]
        super().__init__(fields, widget=CapabilitiesWidget(), required=False, **options)

    def compress(self, data_list: list[str]) -> dict[str, bool]:
        chosen = zip(CAPABILITY_NAMES, data_list, strict=False)
        return {name: code == "true" for name, code in chosen if code}


def label(capability: str) -> str:
    return capability.replace("_", " ").capitalize().replace("Json", "JSON")


class DeploymentForm(forms.ModelForm):  # type: ignore[type-arg]
    capabilities = CapabilitiesField(
        help_text="Default: what was measured, else what is known of the model and its provider.",
        label="Capabilities",
    )

    class Meta:
        model = Deployment
        fields = ()


class RouteTargetFormSet(PaginationInlineFormSet):
    """Rows are dragged into order. One that was added and not dragged comes with position 0, like
    the first; it is put last, where it stands on the page."""

    def clean(self) -> None:
        super().clean()
        rows = [form for form in self.forms if "position" in form.cleaned_data]
        taken = Counter(form.cleaned_data["position"] for form in rows)
        last = max(taken, default=0)
        for form in rows:
            if form.instance.pk is None and taken[form.cleaned_data["position"]] > 1:
                last += 1
                form.instance.position = last


class ConnectionTestForm(BaseDialogForm):
    model = forms.CharField(
        label="Model",
        required=False,
        max_length=200,
        widget=UnfoldAdminTextInputWidget,
        help_text="Optional: one token is asked of it. Without, the models are listed.",
    )
