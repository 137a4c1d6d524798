"""Every setting of the product, read from the environment by typed readers that fail loudly."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import dj_database_url
from django.core.exceptions import ImproperlyConfigured

from gateway_site import __version__, env
from gateway_site.admin_theme import UNFOLD as UNFOLD
from gateway_site.storage import data_directory, secret_keys

BASE_DIR = Path(__file__).resolve().parent.parent
DATA_DIR = data_directory(BASE_DIR)
VERSION = __version__

# --- secrets and hosts ------------------------------------------------------------------------
SECRET_KEY, *SECRET_KEY_FALLBACKS = secret_keys(DATA_DIR)
DEBUG = False
ALLOWED_HOSTS = env.items("ABSTRACTCORE_ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]")
ALLOWED_HOSTS += env.items("ABSTRACTCORE_BOUND_HOST")  # set by the command line
URL_PREFIX = env.text("ABSTRACTCORE_URL_PREFIX").strip("/")
if URL_PREFIX:
    URL_PREFIX = f"/{URL_PREFIX}"
    FORCE_SCRIPT_NAME = URL_PREFIX

# --- what the gateway does --------------------------------------------------------------------
AUTH_MODE = env.choice("ABSTRACTCORE_AUTH", ("required", "local", "off"), "required")
DEFAULT_PROVIDER = env.text("ABSTRACTCORE_DEFAULT_PROVIDER")
DEFAULT_MODEL = env.text("ABSTRACTCORE_DEFAULT_MODEL")
MODELS_DIR = env.folder("ABSTRACTCORE_MODELS_DIR")
OUTBOUND_ALLOW = env.networks("ABSTRACTCORE_OUTBOUND_ALLOW")
PROBE_LEDGER = "usage.probes.record"
"""Where the requests of a capability probe are written down: `providers` knows no ledger."""
DISCOVERY_TTL_S = env.number("ABSTRACTCORE_DISCOVERY_TTL", 60, least=1)
MAX_BODY_BYTES = int(env.number("ABSTRACTCORE_MAX_BODY_BYTES", 32 * 1024 * 1024, least=1024))
MAX_UPLOAD_BYTES = int(env.number("ABSTRACTCORE_MAX_UPLOAD_BYTES", 512 * 1024 * 1024, least=1024))
BODY_TIMEOUT_S = env.number("ABSTRACTCORE_BODY_TIMEOUT", 60, least=1)
KEY_GRACE_S = env.number("ABSTRACTCORE_KEY_GRACE", 3600)
JOURNAL_MAX_BYTES = int(env.number("ABSTRACTCORE_JOURNAL_MAX_BYTES", 1 << 30, least=1 << 20))
SESSIONS_RETENTION_DAYS = env.number("ABSTRACTCORE_SESSIONS_RETENTION", 0)
EVENTS_RETENTION_DAYS = env.number("ABSTRACTCORE_EVENTS_RETENTION", 7, least=0.01)
TRUSTED_PROXIES = env.networks("ABSTRACTCORE_TRUSTED_PROXIES")
METRICS_ALLOW = env.networks("ABSTRACTCORE_METRICS_ALLOW")
TRACES_ENDPOINT = env.text("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
"""Where spans are sent by OTLP over HTTP; empty for nowhere."""
if not TRACES_ENDPOINT and (_collector := env.text("OTEL_EXPORTER_OTLP_ENDPOINT")):
    TRACES_ENDPOINT = f"{_collector.rstrip('/')}/v1/traces"

# --- Django -----------------------------------------------------------------------------------
INSTALLED_APPS = [
    "unfold.apps.BasicAppConfig",
    "unfold.contrib.filters",
    "unfold.contrib.simple_history",
    "gateway_site.apps.GatewayAdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "simple_history",
    "csp",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "providers",
    "events_app",
    "tools_app",
    "keys",
    "sessions_app",
    "usage",
    "gateway_api",
    "gateway_site",
]
if "runserver" in sys.argv:
    # Its app replaces runserver with daphne's and imports Twisted, which no other command needs.
    INSTALLED_APPS.insert(0, "daphne")

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "simple_history.middleware.HistoryRequestMiddleware",
]
ROOT_URLCONF = "gateway_site.urls"
ASGI_APPLICATION = "gateway_site.asgi.application"
APPEND_SLASH = True

_TEMPLATES = [BASE_DIR / "templates", Path(__file__).resolve().parent / "templates"]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [path for path in _TEMPLATES if path.is_dir()],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    }
]


_SQLITE_OPTIONS = {
    # Immediate: a transaction that reads first and writes later would otherwise fail at once with
    # "database is locked" instead of waiting its turn.
    "transaction_mode": "IMMEDIATE",
    "timeout": 20,
    # In memory: a statement of many rows keeps what it may have to undo, else in a file each time.
    "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA temp_store=MEMORY;",
}


def _database() -> dict[str, Any]:
    url = env.text("DATABASE_URL")
    if not url:
        return {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": DATA_DIR / "db.sqlite3",
            "OPTIONS": _SQLITE_OPTIONS,
        }
    try:
        config: dict[str, Any] = dict(dj_database_url.parse(url))
    except ValueError:
        raise ImproperlyConfigured("DATABASE_URL is not a database URL.") from None
    if "postgresql" in config["ENGINE"]:
        # A pool, and no persistent connections: under ASGI those would belong to threads that
        # end with the request, a new Postgres session each.
        config["CONN_MAX_AGE"] = 0
        options = config.setdefault("OPTIONS", {})
        options.setdefault("connect_timeout", 5)
        options["pool"] = {
            "min_size": 1,
            "max_size": int(env.number("ABSTRACTCORE_DATABASE_POOL", 10, least=2)),
            "timeout": 5,
            # Attempts at a lost connection come ever more rarely, and nobody else may try
            # meanwhile: given up soon, the next who wants one tries at once.
            "reconnect_timeout": 3,
        }
    elif "sqlite" in config["ENGINE"]:
        config["OPTIONS"] = {**_SQLITE_OPTIONS, **config.get("OPTIONS", {})}
    else:
        raise ImproperlyConfigured("DATABASE_URL must name a postgres:// or sqlite:// database.")
    return config


DATABASES = {"default": _database()}
# A doorbell, no more: events are rows, and whoever waits for one looks without a ring too.
REDIS_URL = env.address("REDIS_URL", ("redis", "rediss", "unix"))
CHANNEL_LAYERS: dict[str, dict[str, Any]] = {
    "default": {
        "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
        "CONFIG": {
            "hosts": [{"address": REDIS_URL, "socket_connect_timeout": 2, "socket_timeout": 2}],
            "prefix": "abstractcore:",
        },
    }
    if REDIS_URL
    else {"BACKEND": "channels.layers.InMemoryChannelLayer"}
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
# The theme's login page forgets where Django would go on to.
LOGIN_URL, LOGIN_REDIRECT_URL = "admin:login", "admin:index"
LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True

# Relative, so that Django puts the URL prefix in front.
STATIC_URL = "static/"
WHITENOISE_USE_FINDERS = True

# --- browsers ---------------------------------------------------------------------------------
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
_HTTPS = env.switch("ABSTRACTCORE_HTTPS", default=False)
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = _HTTPS
if _HTTPS:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    # TLS ends at the proxy in front, which redirects to it (W008) and says for how long browsers
    # shall insist on it (W004): the probes and clients of the inner network speak plain HTTP.
    SILENCED_SYSTEM_CHECKS = ["security.W004", "security.W008"]
    CSRF_TRUSTED_ORIGINS = [f"https://{host}" for host in ALLOWED_HOSTS if host != "*"]
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'self'"],
        # The admin theme's Alpine build evaluates the expressions in its templates.
        "script-src": ["'self'", "'unsafe-eval'"],
        "style-src": ["'self'", "'unsafe-inline'"],
        "img-src": ["'self'", "data:"],
        "font-src": ["'self'", "data:"],
        "object-src": ["'none'"],
        "base-uri": ["'self'"],
        "form-action": ["'self'"],
        "frame-ancestors": ["'none'"],
    }
}

# --- the API ----------------------------------------------------------------------------------
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["keys.authentication.CallerAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["keys.authentication.IsCaller"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "UNAUTHENTICATED_USER": None,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "AbstractCore Server",
    "DESCRIPTION": "A self-hosted, OpenAI-compatible gateway to every LLM provider.",
    "VERSION": __version__,
    "OAS_VERSION": "3.1.0",
    "SERVERS": [{"url": URL_PREFIX}] if URL_PREFIX else [],
    "SERVE_INCLUDE_SCHEMA": False,
    # No validator: it would tell a public service the address of every schema.
    "SWAGGER_UI_SETTINGS": {"deepLinking": True, "validatorUrl": None},
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
}

# --- logs -------------------------------------------------------------------------------------
LOG_LEVEL = env.choice(
    "ABSTRACTCORE_LOG_LEVEL", ("debug", "info", "warning", "error", "critical"), "info"
).upper()
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"request_id": {"()": "gateway_site.logs.RequestIdFilter"}},
    "formatters": {
        "json": {
            "()": "pythonjsonlogger.json.JsonFormatter",
            "format": "%(asctime)s %(levelname)s %(name)s %(message)s %(request_id)s",
            "rename_fields": {"asctime": "time", "levelname": "level", "name": "logger"},
        },
        "text": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s [%(request_id)s]"},
    },
    "handlers": {
        "stderr": {
            "class": "logging.StreamHandler",
            "formatter": env.choice("ABSTRACTCORE_LOG_FORMAT", ("text", "json"), "text"),
            "filters": ["request_id"],
        }
    },
    "root": {"handlers": ["stderr"], "level": LOG_LEVEL},
    "loggers": {
        # A caller's 4xx is the caller's business; the access line tells it already.
        "django.request": {"level": "ERROR"},
        "django.server": {"level": "WARNING"},
        "httpx": {"level": "WARNING"},
        "uvicorn.access": {"level": "WARNING"},
        # Each try of each batch, while a collector is away; that it failed is an error.
        "opentelemetry.exporter": {"level": "ERROR"},
        # A traceback a second while Redis is away; the doorbell says it once.
        "channels_redis.pubsub": {"level": "CRITICAL"},
    },
}
