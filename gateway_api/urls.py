"""The API's addresses."""

from __future__ import annotations

from django.urls import path

from gateway_api.anthropic.views import (
    CountTokensView,
    MessagesView,
    UnknownMessagesAddressView,
)
from gateway_api.native.events import EventStreamView
from gateway_api.native.health import LiveView, ReadyView
from gateway_api.native.metrics import MetricsView
from gateway_api.native.provider_test import ProviderTestView
from gateway_api.native.providers import ProviderModelsView, ProvidersView
from gateway_api.native.session_chat import SessionChatView
from gateway_api.native.session_compaction import CompactSessionView
from gateway_api.native.session_transfer import ExportSessionView, ImportSessionView
from gateway_api.native.sessions import ForkSessionView, SessionsView, SessionView
from gateway_api.native.status import StatusView
from gateway_api.native.structured import StructuredView
from gateway_api.native.tools import RegisterToolView, ToolsView, ToolView
from gateway_api.native.usage import UsageSummaryView, UsageView
from gateway_api.not_found import UnknownAddressView
from gateway_api.ollama.answering import ChatView, GenerateView
from gateway_api.ollama.embedding import EmbeddingsView as OllamaEmbeddingsView
from gateway_api.ollama.embedding import EmbedView
from gateway_api.ollama.models import RunningView, ShowView, TagsView, VersionView
from gateway_api.ollama.view import UnknownOllamaAddressView
from gateway_api.openai.chat import ChatCompletionsView
from gateway_api.openai.completions import CompletionsView
from gateway_api.openai.embeddings import EmbeddingsView
from gateway_api.openai.models import ModelsView, ModelView
from gateway_api.openai.relays import (
    BatchCancelView,
    BatchesView,
    BatchView,
    FileContentView,
    FilesView,
    FileView,
    ImageEditsView,
    ImageGenerationsView,
    ImageVariationsView,
    ModerationsView,
    RerankView,
    SpeechView,
    TranscriptionsView,
    TranslationsView,
)
from gateway_api.openai.responses.conversation_views import (
    ConversationItemsView,
    ConversationItemView,
    ConversationsView,
    ConversationView,
)
from gateway_api.openai.responses.views import (
    CancelResponseView,
    InputItemsView,
    ResponsesView,
    StoredResponseView,
)

urlpatterns = [
    path("v1/chat/completions", ChatCompletionsView.as_view()),
    path("v1/completions", CompletionsView.as_view()),
    path("v1/embeddings", EmbeddingsView.as_view()),
    path("v1/moderations", ModerationsView.as_view()),
    path("v1/rerank", RerankView.as_view()),
    path("v1/images/generations", ImageGenerationsView.as_view()),
    path("v1/images/edits", ImageEditsView.as_view()),
    path("v1/images/variations", ImageVariationsView.as_view()),
    path("v1/audio/speech", SpeechView.as_view()),
    path("v1/audio/transcriptions", TranscriptionsView.as_view()),
    path("v1/audio/translations", TranslationsView.as_view()),
    path("v1/files", FilesView.as_view()),
    path("v1/files/<str:file_id>", FileView.as_view()),
    path("v1/files/<str:file_id>/content", FileContentView.as_view()),
    path("v1/batches", BatchesView.as_view()),
    path("v1/batches/<str:batch_id>", BatchView.as_view()),
    path("v1/batches/<str:batch_id>/cancel", BatchCancelView.as_view()),
    path("v1/models", ModelsView.as_view()),
    path("v1/models/<path:name>", ModelView.as_view()),
    path("v1/providers", ProvidersView.as_view()),
    path("v1/providers/test", ProviderTestView.as_view()),
    path("v1/providers/<str:name>/models", ProviderModelsView.as_view()),
    path("v1/messages", MessagesView.as_view()),
    path("v1/messages/count_tokens", CountTokensView.as_view()),
    path("v1/messages/", UnknownMessagesAddressView.as_view()),
    path("v1/messages/<path:rest>", UnknownMessagesAddressView.as_view()),
    path("v1/responses", ResponsesView.as_view()),
    path("v1/responses/<str:response_id>", StoredResponseView.as_view()),
    path("v1/responses/<str:response_id>/input_items", InputItemsView.as_view()),
    path("v1/responses/<str:response_id>/cancel", CancelResponseView.as_view()),
    path("v1/conversations", ConversationsView.as_view()),
    path("v1/conversations/<str:conversation_id>", ConversationView.as_view()),
    path("v1/conversations/<str:conversation_id>/items", ConversationItemsView.as_view()),
    path(
        "v1/conversations/<str:conversation_id>/items/<str:item_id>",
        ConversationItemView.as_view(),
    ),
    path("v1/tools", ToolsView.as_view()),
    path("v1/tools/register", RegisterToolView.as_view()),
    path("v1/tools/<str:name>", ToolView.as_view()),
    path("v1/generate/structured", StructuredView.as_view()),
    path("v1/events/stream", EventStreamView.as_view()),
    path("v1/sessions", SessionsView.as_view()),
    path("v1/sessions/import", ImportSessionView.as_view()),
    path("v1/sessions/<str:session_id>", SessionView.as_view()),
    path("v1/sessions/<str:session_id>/chat", SessionChatView.as_view()),
    path("v1/sessions/<str:session_id>/fork", ForkSessionView.as_view()),
    path("v1/sessions/<str:session_id>/compact", CompactSessionView.as_view()),
    path("v1/sessions/<str:session_id>/export", ExportSessionView.as_view()),
    path("v1/usage", UsageView.as_view()),
    path("v1/usage/summary", UsageSummaryView.as_view()),
    path("api/chat", ChatView.as_view()),
    path("api/generate", GenerateView.as_view()),
    path("api/embed", EmbedView.as_view()),
    path("api/embeddings", OllamaEmbeddingsView.as_view()),
    path("api/tags", TagsView.as_view()),
    path("api/show", ShowView.as_view()),
    path("api/ps", RunningView.as_view()),
    path("api/version", VersionView.as_view()),
    path("v1/status", StatusView.as_view()),
    path("metrics", MetricsView.as_view()),
    path("livez", LiveView.as_view()),
    path("readyz", ReadyView.as_view()),
    path("v1/<path:rest>", UnknownAddressView.as_view()),
    path("v1/", UnknownAddressView.as_view()),
    path("v1", UnknownAddressView.as_view()),
    path("api/<path:rest>", UnknownOllamaAddressView.as_view()),
    path("api/", UnknownOllamaAddressView.as_view()),
    path("api", UnknownOllamaAddressView.as_view()),
]
