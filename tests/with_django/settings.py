"""Of the project that the tests run."""

import os

SECRET_KEY = "not-a-secret"
DEBUG = False
ALLOWED_HOSTS = ["*"]
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "claude_throttle.contrib.django",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "claude_throttle.contrib.django.middleware.ThrottleErrorMiddleware",
]
ROOT_URLCONF = "tests.with_django.urls"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("DATABASE", ":memory:"),
    }
}
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
STATIC_URL = "/static/"
USE_TZ = True
TIME_ZONE = "UTC"
# pytest has its own.
LOGGING_CONFIG = None

if "FAKE_URL" in os.environ:
    CLAUDE_THROTTLE = {
        "default": {
            "api_key": "sk-ant-test",
            "base_url": os.environ["FAKE_URL"],
            "rpm": 60_000,
            "burst": 100,
            "max_queue": int(os.environ.get("MAX_QUEUE", "1000")),
            "max_concurrency": int(os.environ.get("MAX_CONCURRENCY", "100")),
        }
    }
