"""Django's settings, read from the environment. ``docs/reference/settings.md`` lists them."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from csp.constants import NONE, SELF

from astra_site import embedded, env, secret_key
from astra_site.database import django_database

BASE_DIR = Path(__file__).resolve().parent.parent

# --- Where things live -------------------------------------------------------------------------------------------

DEBUG = env.flag("ASTRA_DEBUG", help="Show error pages with details and allow a generated secret key on a fleet.")
DATA_DIR = env.path(
    "ASTRA_DATA_DIR",
    BASE_DIR / "var",
    shown="`var` in the checkout",
    help="The folder of the embedded servers, the generated secret key and the collected static files.",
)
ASTRA_CONFIG = env.path(
    "ASTRA_CONFIG",
    BASE_DIR / "astra.yml",
    shown="`astra.yml` in the checkout",
    help="The agents and endpoints to load.",
)
DATABASE_URL = env.secret_url(
    "DATABASE_URL",
    ("postgres", "postgresql"),
    shown="an embedded PostgreSQL",
    help="A PostgreSQL 14 or newer, as libpq writes it: `postgresql://user:password@host/name`.",
)
REDIS_URL = env.secret_url(
    "REDIS_URL",
    ("redis", "rediss", "unix"),
    shown="an embedded Valkey",
    help="A Redis or Valkey 7 or newer: `redis://host:6379/0`, `rediss://…` or `unix:///path?db=0`.",
)
EMBEDDED_DATABASE = not DATABASE_URL
EMBEDDED_REDIS = not REDIS_URL
if EMBEDDED_DATABASE:
    DATABASE_URL = embedded.database_url(DATA_DIR)
if EMBEDDED_REDIS:
    REDIS_URL = embedded.redis_url(DATA_DIR)

SECRET_KEY = secret_key.find_or_make(
    env.secret(
        "ASTRA_SECRET_KEY",
        help="Signs sessions and tokens. Generated into the data directory when a server is embedded; "
        "required when `DATABASE_URL` and `REDIS_URL` are both set.",
    ),
    DATA_DIR,
    may_make=EMBEDDED_DATABASE or EMBEDDED_REDIS or DEBUG,
)
SECRET_KEY_FALLBACKS = env.secret(
    "ASTRA_SECRET_KEY_FALLBACKS",
    help="Former values of `ASTRA_SECRET_KEY`, with blanks between them: sessions, links and decisions that they "
    "signed still hold. Keep one for as long as a run that people decided on may go on.",
).split()

# --- The address -------------------------------------------------------------------------------------------------

PORT = env.integer("ASTRA_PORT", 8000, minimum=1, maximum=65535, help="The port that `up` and `web` listen on.")
WEB_PROCESSES = env.integer(
    "ASTRA_WEB_PROCESSES",
    1,
    minimum=1,
    maximum=64,
    help="How many web processes `up` runs behind the one port. Each uses up to 16 connections to PostgreSQL.",
)
PUBLIC_URL = env.url(
    "ASTRA_PUBLIC_URL",
    ("http", "https"),
    f"http://127.0.0.1:{PORT}",
    shown="`http://127.0.0.1:8000`",
    help="The address people and webhooks reach Astra at. With `https://` cookies are secure, HSTS is on, and "
    "`X-Forwarded-Proto` and the last address in `X-Forwarded-For` are trusted, which the proxy in front sets.",
).rstrip("/")
_public = urlsplit(PUBLIC_URL)
_IS_HTTPS = _public.scheme == "https"
OWN_HOSTS = ["localhost", "127.0.0.1", "[::1]"]
ALLOWED_HOSTS = env.items(
    "ASTRA_ALLOWED_HOSTS",
    tuple(OWN_HOSTS),
    help="Host names the site answers to. The host of `ASTRA_PUBLIC_URL` is always one of them.",
)
if _public.hostname and _public.hostname not in ALLOWED_HOSTS:
    ALLOWED_HOSTS.append(_public.hostname)
CSRF_TRUSTED_ORIGINS = [f"{_public.scheme}://{_public.netloc}"]
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = _IS_HTTPS
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if _IS_HTTPS else None
SECURE_HSTS_SECONDS = 31_536_000 if _IS_HTTPS else 0
SECURE_REFERRER_POLICY = "same-origin"
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
X_FRAME_OPTIONS = "DENY"

# --- Apps --------------------------------------------------------------------------------------------------------

INSTALLED_APPS = [
    "astra_site.admin_site.AstraAdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.postgres",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "channels",
    "django_htmx",
    "django_rq",
    "template_partials",
    "csp",
    "accounts",
    "audit",
    "jobs",
    "agents",
    "approvals",
    "astra_site",
]
MIDDLEWARE = [
    "astra_site.request_id.RequestIdMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.auth.middleware.LoginRequiredMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
]
ROOT_URLCONF = "astra_site.urls"
ASGI_APPLICATION = "astra_site.asgi.application"
TEMPLATES: list[dict[str, Any]] = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "approvals.badge.approvals_badge",
            ],
        },
    },
]

# --- PostgreSQL, Redis and what rests on them --------------------------------------------------------------------

DATABASES = {"default": django_database(DATABASE_URL)}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

LANES = ("chat", "queue", "scheduled", "batch", "tools", "delivery", "evals", "suspect")
# The library's own pages in Django admin change what is in Valkey, unseen by the trail: the console has the queues.
RQ_SHOW_ADMIN_LINK = False
RQ_QUEUES = {lane: {"URL": REDIS_URL, "SERIALIZER": "json"} for lane in LANES}

# --- People ------------------------------------------------------------------------------------------------------

LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "/"
LOGOUT_REDIRECT_URL = "login"
PASSWORD_HASHERS = [
    "django.contrib.auth.hashers.Argon2PasswordHasher",
    "django.contrib.auth.hashers.PBKDF2PasswordHasher",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]

# --- Language, time, files ---------------------------------------------------------------------------------------

LANGUAGE_CODE = "en"
USE_I18N = True
USE_TZ = True
TIME_ZONE = env.time_zone("ASTRA_TIME_ZONE", "UTC", help="The IANA time zone the site shows times in.")

STATIC_URL = "/static/"
STATIC_ROOT = DATA_DIR / "static"
STATICFILES_DIRS = [folder for folder in (BASE_DIR / "static",) if folder.is_dir()]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "astra_site.static.ManifestStorage"},
}

CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [SELF],
        "script-src": [SELF],
        "style-src": [SELF],
        "img-src": [SELF, "data:"],
        "connect-src": [SELF],
        "font-src": [SELF],
        "object-src": [NONE],
        "base-uri": [SELF],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
    },
}

GRACE_SECONDS = env.integer(
    "ASTRA_GRACE_S",
    10,
    minimum=0,
    maximum=3600,
    help="How many seconds running requests and tasks have to finish when a process is told to stop.",
)

# --- Agents ------------------------------------------------------------------------------------------------------

ASTRA_MODEL = env.text(
    "ASTRA_MODEL",
    help="One model for every agent, for example `openai:gpt-5.1` or `demo`. Without it and without a key: `demo`.",
)
OPENAI_API_KEY = env.secret("OPENAI_API_KEY", help="The key for `openai:` models.")
OPENAI_BASE_URL = env.text(
    "OPENAI_BASE_URL", help="A server that speaks OpenAI's chat completions, for `openai:` models."
)
ANTHROPIC_API_KEY = env.secret("ANTHROPIC_API_KEY", help="The key for `anthropic:` models.")
FILES_DIR = env.path(
    "ASTRA_FILES_DIR",
    DATA_DIR / "files",
    shown="`files` in the data directory",
    help="The folder that agents may read files in.",
)
ALLOWED_PRIVATE_HOSTS = env.items(
    "ASTRA_ALLOWED_PRIVATE_HOSTS",
    help="Hosts and networks with private addresses that tools and webhooks may reach all the same.",
)

# --- Telling people ----------------------------------------------------------------------------------------------

SMTP_URL = env.secret_url(
    "ASTRA_SMTP_URL",
    ("smtp", "smtps"),
    shown="no mail",
    help="The mail server: `smtps://user:password@host:465`, or `smtp://` for STARTTLS. Without a user name, and on "
    "this machine, `smtp://` is not encrypted. Marks like `@` and `/` in the password are written as `%40` and `%2F`.",
)
MAIL_FROM = env.text(
    "ASTRA_MAIL_FROM",
    f"Astra <astra@{_public.hostname or 'localhost'}>",
    shown="`astra` at the host of `ASTRA_PUBLIC_URL`",
    help="Whom mail comes from: `astra@example.org` or `Astra <astra@example.org>`.",
)
NOTIFY_URLS = env.secret_addresses(
    "ASTRA_NOTIFY_URLS",
    help="Where else to tell of requests that wait for people, as apprise writes it, for example `slack://…` or "
    "`tgram://…`; several are set apart by blanks. With `finance=` before it, only of those for the group `finance`.",
)
APPROVALS_HOOK_KEYS = env.signing_keys(
    "ASTRA_APPROVALS_HOOK_SECRET",
    help="Signs webhooks that decide, by Standard Webhooks: `whsec_` and the base64 of 24 bytes or more. Two, set "
    "apart by a blank, while you change it. Without it there is no such webhook.",
)

# --- Logs --------------------------------------------------------------------------------------------------------

LOG_LEVEL = env.choice(
    "ASTRA_LOG_LEVEL", "INFO", ("DEBUG", "INFO", "WARNING", "ERROR"), help="The least level that is logged."
)
# What libraries say about their daily work is no news here.
_LIBRARIES = ("asyncio", "daphne", "httpx", "httpx2", "psycopg", "rq", "urllib3")
_LIBRARY_LEVEL = "ERROR" if LOG_LEVEL == "ERROR" else "WARNING"
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"()": "astra_site.logs.LineFormatter"}},
    "handlers": {
        "stderr": {"class": "logging.StreamHandler", "formatter": "line"},
        "nowhere": {"class": "logging.NullHandler"},
    },
    "root": {"handlers": ["stderr"], "level": LOG_LEVEL},
    "loggers": {
        "django": {"handlers": [], "level": LOG_LEVEL if LOG_LEVEL != "DEBUG" else "INFO", "propagate": True},
        "django.request": {"level": "ERROR"},
        # What it says may hold parts of an address that are secret. `jobs.notify` reads what it needs of it.
        "apprise": {"handlers": ["nowhere"], "level": "WARNING", "propagate": False},
        **{name: {"level": _LIBRARY_LEVEL} for name in _LIBRARIES},
    },
}
