import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from space.guard import CONTENT_SECURITY_POLICY, Guard


@pytest.fixture
def client():
    async def length(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(len(await request.body())))

    guard = Middleware(Guard, max_bytes=100, closed=("/upload",))
    routes = [Route(path, length, methods=["GET", "POST"]) for path in ("/", "/api/upload", "/uploads")]
    return TestClient(Starlette(routes=routes, middleware=[guard]))


def test_small_requests_pass_with_a_policy(client):
    answer = client.post("/", content=b"a" * 100)
    assert (answer.status_code, answer.text) == (200, "100")
    assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY


def test_large_requests_are_rejected(client):
    assert client.post("/", content=b"a" * 101).status_code == 413
    assert client.post("/", content=(b"a" * 60 for _ in range(2))).status_code == 413  # unknown length
    assert client.post("/", content=b"a", headers={"content-length": "many"}).status_code == 413


def test_closed_paths_are_not_found(client):
    for path in ("/api/upload", "/api/upload/", "/api/upload?session=1"):
        assert client.post(path, content=b"a").status_code == 404
    assert client.post("/uploads", content=b"a").text == "1"
