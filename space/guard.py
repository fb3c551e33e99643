"""Middleware of the demo. It limits the size of requests and sets a content security policy."""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Gradio's pages have inline scripts and styles, and compile the scripts of components.
CONTENT_SECURITY_POLICY = "; ".join([
    "default-src 'self'",
    "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
    "style-src 'self' 'unsafe-inline'",
    "img-src 'self' data: blob:",
    "font-src 'self' data:",
    "connect-src 'self'",
    "object-src 'none'",
    "frame-ancestors 'self' https://huggingface.co https://*.hf.space",
])  # fmt: skip


class Guard:
    """Middleware that limits bodies to `max_bytes`, answers paths ending in `closed` with 404, and sets headers."""

    def __init__(self, app: ASGIApp, max_bytes: int, closed: tuple[str, ...] = ()):
        self.app, self.max_bytes, self.closed = app, max_bytes, closed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward or reject a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["path"].rstrip("/").endswith(self.closed):
            await PlainTextResponse("not found", status_code=404)(scope, receive, send)
            return
        too_large = f"a request may have up to {self.max_bytes:,} bytes"
        length = Headers(scope=scope).get("content-length", "0")
        if not length.isdecimal() or int(length) > self.max_bytes:
            await PlainTextResponse(too_large, status_code=413)(scope, receive, send)
            return
        received = 0

        async def receive_some() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_bytes:
                raise HTTPException(413, too_large)
            return message

        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["content-security-policy"] = CONTENT_SECURITY_POLICY
                headers["x-content-type-options"] = "nosniff"
                headers["referrer-policy"] = "no-referrer"
            await send(message)

        await self.app(scope, receive_some, send_with_policy)
