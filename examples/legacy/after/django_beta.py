"""A Django view that reads an invoice into JSON, by the beta API of structured outputs."""

import json
import os

import anthropic
import django
from claude_throttle import Throttler
from django.conf import settings
from django.http import HttpResponse, JsonResponse
from django.urls import path

settings.configure(
    SECRET_KEY=os.environ.get("SECRET_KEY", "not-a-secret"),
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
)
django.setup()

client = anthropic.Anthropic(middleware=[Throttler().middleware()])

SCHEMA = {
    "type": "object",
    "properties": {"total": {"type": "number"}, "currency": {"type": "string"}},
    "required": ["total", "currency"],
    "additionalProperties": False,
}


def invoice(request):
    try:
        message = client.beta.messages.create(
            model="claude-haiku-4-5",
            max_tokens=100,
            betas=["structured-outputs-2025-11-13"],
            extra_body={"output_format": {"type": "json_schema", "schema": SCHEMA}},
            messages=[{"role": "user", "content": request.GET["text"]}],
        )
    except anthropic.APIError as error:
        return HttpResponse(f"Claude is not available: {error}", status=502)
    return JsonResponse(json.loads(message.content[0].text))


urlpatterns = [path("invoice", invoice)]
