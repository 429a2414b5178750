"""What happens around every request: a limit on its size, headers of safety, counts and times for the metrics."""

import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from fastapi import HTTPException
from fastapi.responses import JSONResponse

from genrec_cli.serve.metrics import Metrics
from genrec_cli.serve.schema import MAX_BODY

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

TOO_LARGE = f"A request has at most {MAX_BODY:,} bytes."
HEADERS = [
    (b"content-security-policy", b"default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]
"""The page loads nothing from elsewhere, and no other page can frame it."""


class Guard:
    """ASGI middleware."""

    def __init__(self, app: App, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        began, status, size = time.perf_counter(), 500, 0

        async def limited() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > MAX_BODY:
                raise HTTPException(413, TOO_LARGE)
            return message

        async def safe(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *HEADERS]
            await send(message)

        try:
            if _length(scope) > MAX_BODY:
                await JSONResponse({"error": TOO_LARGE}, 413)(scope, receive, safe)
            else:
                await self.app(scope, limited, safe)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self.metrics.requests.add(route=route, status=str(status))
            self.metrics.seconds.observe(time.perf_counter() - began, route=route)


def _length(scope: Message) -> int:
    """The length that the client declares; 0 if it declares none, or no number."""
    text = dict(scope["headers"]).get(b"content-length", b"0")
    return int(text) if text.isdigit() and len(text) < 20 else 0
