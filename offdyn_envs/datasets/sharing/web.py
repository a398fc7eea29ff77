"""Opening an HTTP(S) address: which errors are worth another try, which redirects and which proxies are taken."""

from __future__ import annotations

import http.client
import ipaddress
import re
import ssl
import urllib.error
import urllib.request
from typing import IO, Any
from urllib.parse import urlsplit

from offdyn_envs.errors import OffDynError

__all__ = ["Broken", "Unsatisfiable", "check_url", "open_url", "read_block"]

TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as broken."""
BLOCK = 1 << 18
_BUSY = (408, 425, 429)


class Broken(Exception):
    """Worth another try: the connection broke, or the server could not answer just now."""


class Unsatisfiable(Broken):
    """The server's file ends before the byte that was asked for."""


def check_url(url: str) -> str:
    """Check a base address.

    Args:
        url: For instance "https://data.example.org/offdyn".

    Returns:
        The address without a slash at its end.

    Raises:
        OffDynError: Another scheme, no host, a query, a name with a password, or no address at all.
    """
    try:
        parts = urlsplit(url)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        whole, parts = False, urlsplit("")
    extra = parts.query or parts.fragment or "@" in parts.netloc or re.search(r"[^\x21-\x7e]", url)
    if not whole or extra:
        raise OffDynError(f"URL '{url[:200]}' is not a base address; expected http(s)://host[:port][/path]")
    return url.rstrip("/")


def open_url(url: str, start: int = 0) -> Any:
    """Open an address.

    Args:
        url: The address.
        start: Ask for the bytes from this one on.

    Returns:
        The answer, an `http.client.HTTPResponse` to use in a `with`; its status is 206 where the server sends the
        range, 200 where it sends everything.

    Raises:
        Broken: No connection, a server error, or too many requests.
        OffDynError: Any other answer, for instance 404.
    """
    from offdyn_envs.version import __version__

    headers = {"User-Agent": f"offdyn/{__version__}", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        return _opener().open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        raise _refused(url, error, start) from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise OffDynError(f"{url}: its certificate is not accepted ({error.reason})") from None
        raise Broken(f"no connection ({error.reason})") from None
    except (OSError, http.client.HTTPException) as error:
        raise Broken(f"no answer ({_name(error)})") from None


def read_block(response: Any) -> bytes:
    """Read what has arrived, at most one block.

    Args:
        response: From `open_url`.

    Returns:
        The bytes; none at the end of the answer, also where the connection was closed too early.

    Raises:
        Broken: The connection broke.
    """
    try:
        return response.read1(BLOCK)  # Not `read`: what it has collected is lost with the connection.
    except (OSError, http.client.HTTPException) as error:
        raise Broken(f"the connection broke ({_name(error)})") from None


def _name(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _refused(url: str, error: urllib.error.HTTPError, start: int) -> Exception:
    what = f"answered {error.code} {error.reason}"
    if error.code >= 500 or error.code in _BUSY:
        return Broken(what)
    return Unsatisfiable(what) if error.code == 416 and start else OffDynError(f"{url}: {what}")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects to HTTP(S), but never from HTTPS to HTTP."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        allowed = ("https",) if req.type == "https" else ("http", "https")
        if urlsplit(newurl).scheme not in allowed:
            fp.close()
            raise OffDynError(f"{req.full_url}: redirects to '{newurl[:200]}'; allowed: {' or '.join(allowed)}")
        # Python 3.10 does not know 308, which differs from 307 only in how long it holds.
        return super().redirect_request(req, fp, 307 if code == 308 else code, msg, headers, newurl)

    http_error_308 = urllib.request.HTTPRedirectHandler.http_error_302


class _Proxies(urllib.request.ProxyHandler):
    """Use the proxies of the environment, but never for this machine: a proxy would look for it elsewhere."""

    def proxy_open(self, req: urllib.request.Request, proxy: str, type: str) -> Any:
        return None if _is_loopback(req.host) else super().proxy_open(req, proxy, type)


def _is_loopback(host: str) -> bool:
    name = urlsplit(f"//{host}").hostname or ""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def _opener() -> urllib.request.OpenerDirector:
    """Return an opener for HTTP and HTTPS alone; the usual one reads local files and FTP as well."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        _Proxies(),
        _Redirects(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener
