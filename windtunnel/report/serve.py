"""The live view: pages over HTTP, read-only, on loopback unless told otherwise, and then only with a token.

`Guard` stands before everything: it lets only GET and HEAD in, only under the names this server has (a page of another
site can make its own name mean 127.0.0.1), and nothing that another site's page asks for. No address is ever a path of
the file system: a study is looked up by the hash of its name, a record by its key.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

from windtunnel.errors import InputError
from windtunnel.report.pages import Page, Pages

DEFAULT = "127.0.0.1:8640"
NEEDS = "The live view needs starlette and uvicorn: pip install 'windtunnel[live]'."
HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "content-security-policy": "frame-ancestors 'none'",  # a second policy: the page's own says the rest
}


@dataclass(frozen=True)
class Address:
    """Where to listen. Port 0: one that is free."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """`8640`, `:8640`, `127.0.0.1:8640`, `[::1]:8640`, `0.0.0.0:8640`. Raises InputError for anything else."""
        host, _, port = text.rpartition(":")
        host = host.strip("[]") or "127.0.0.1"
        wrong = not port.isdecimal() or int(port) > 65535
        if wrong or not (host == "localhost" or _is_address(host)):
            raise InputError(f"{text!r} is no place to serve at; give a port, as 8640, or ADDRESS:PORT, as {DEFAULT}.")
        return cls("127.0.0.1" if host == "localhost" else host, int(port))

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return ipaddress.ip_address(self.host).is_loopback

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Guard:
    """Refuses what the live view must not answer; `token` None: whoever reaches this machine's loopback may read."""

    def __init__(self, app: Any, address: Address, token: str | None) -> None:
        self.app, self.token = app, token
        self.cookie = f"windtunnel-{address.port}"
        self.names = {str(address), f"localhost:{address.port}", f"127.0.0.1:{address.port}", f"[::1]:{address.port}"}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request, or have the application answer it."""
        if scope["type"] != "http":
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        refused = self._refused(scope, headers)
        if refused is not None:
            await _answer(send, *refused)
            return
        await self.app(scope, receive, _with_headers(send))

    def _refused(self, scope: Any, headers: dict[str, str]) -> tuple[int, str, dict[str, str]] | None:
        host = headers.get("host", "")
        if scope["method"] not in ("GET", "HEAD"):
            return 405, "The live view only reads.", {"allow": "GET, HEAD"}
        if self.token is None and host.lower() not in self.names:
            return 421, "This server does not have that name.", {}
        if "origin" in headers and urlsplit(headers["origin"]).netloc != host:
            return 403, "Pages of other origins are not answered.", {}
        foreign = headers.get("sec-fetch-site", "none") in ("cross-site", "same-site")
        if foreign and headers.get("sec-fetch-dest") != "document":
            return 403, "Pages of other origins are not answered.", {}
        return None if self.token is None else self._without_token(scope, headers)

    def _without_token(self, scope: Any, headers: dict[str, str]) -> tuple[int, str, dict[str, str]] | None:
        assert self.token is not None
        pairs = (part.strip().partition("=") for part in headers.get("cookie", "").split(";"))
        kept = {name: value for name, _, value in pairs}
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        if _same(kept.get(self.cookie, ""), self.token) or _same(bearer, self.token):
            return None
        query: str = scope.get("query_string", b"").decode("latin-1")
        asked = parse_qs(query).get("token", [""])[0]
        if _same(asked, self.token):  # from now on in a cookie, so that no address with the token is passed on
            cookie = f"{self.cookie}={self.token}; HttpOnly; SameSite=Lax; Path=/"
            return 303, "", {"location": "./", "set-cookie": cookie}
        return 401, "Open the address that the server printed: it holds the token.", {"www-authenticate": "Bearer"}


def application(pages: Pages, address: Address, token: str | None) -> Guard:
    """The whole live view as an ASGI application."""
    try:
        from starlette.applications import Starlette
        from starlette.concurrency import run_in_threadpool
        from starlette.responses import JSONResponse, PlainTextResponse, Response
        from starlette.routing import Route
    except ModuleNotFoundError:
        raise InputError(NEEDS) from None

    def sent(request: Any, page: Page | None, again: float) -> Any:
        if page is None:
            return PlainTextResponse("There is no such study here.", 404)
        same = {"etag": page.tag, "cache-control": "private, no-cache", "vary": "accept-encoding"}
        same |= {"x-look-again": f"{again:.1f}"}
        if page.tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=same)
        small = "gzip" in request.headers.get("accept-encoding", "")
        more = same | ({"content-encoding": "gzip"} if small else {})
        return Response(page.small if small else page.text, headers=more, media_type="text/html")

    async def index(request: Any) -> Any:
        return sent(request, pages.index(), pages.again())

    async def study(request: Any) -> Any:
        id = request.path_params["id"]
        return sent(request, pages.page(id), pages.again(id))

    async def record(request: Any) -> Any:
        try:
            found = await run_in_threadpool(pages.record, request.path_params["key"])
        except InputError as error:
            return PlainTextResponse(str(error), 500)
        return PlainTextResponse("There is no such run here.", 404) if found is None else JSONResponse(found)

    routes = [Route("/", index), Route("/study/{id:str}", study), Route("/runs/{key:str}/run.json", record)]
    return Guard(Starlette(routes=routes), address, token)


def serve(pages: Pages, address: Address, told: Callable[[str], None]) -> None:
    """Answer until interrupted; `told` hears the address to open. Raises InputError where it cannot listen."""
    try:
        import uvicorn
    except ModuleNotFoundError:
        raise InputError(NEEDS) from None
    listening = _listen(address)
    address = Address(address.host, listening.getsockname()[1])
    token = None if address.loopback else secrets.token_urlsafe(24)
    app = application(pages, address, token)
    settings = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, lifespan="off", limit_concurrency=512,
        timeout_keep_alive=10,
    )  # fmt: skip
    pages.start()
    told(f"http://{address}/" + (f"?token={token}" if token else ""))
    try:
        uvicorn.Server(settings).run(sockets=[listening])
    except KeyboardInterrupt:
        pass
    finally:
        pages.stop()
        listening.close()


def _listen(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((address.host, address.port))
        listening.listen(256)  # whoever opens the printed address waits for an answer, and is not refused
    except OSError as error:
        listening.close()
        raise InputError(f"Cannot serve at {address}: {error.strerror}. Give another port, or 0 for any.") from None
    return listening


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), token.encode())


def _with_headers(send: Any) -> Any:
    async def sending(message: Any) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *_encoded(HEADERS)]
        await send(message)

    return sending


async def _answer(send: Any, status: int, text: str, headers: dict[str, str]) -> None:
    said = {"content-type": "text/plain; charset=utf-8", "cache-control": "no-store"} | HEADERS | headers
    await send({"type": "http.response.start", "status": status, "headers": _encoded(said)})
    await send({"type": "http.response.body", "body": text.encode()})


def _encoded(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
