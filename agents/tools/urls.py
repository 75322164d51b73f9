"""One spelling per page: normalised URLs, the site they belong to, and the shapes that only traps have."""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from urllib.parse import parse_qsl, quote, unquote, urlencode, urljoin, urlsplit, urlunsplit

MAX_LENGTH = 2000
_TRACKING = re.compile(r"^(utm_\w+|fbclid|gclid|msclkid|mc_[ce]id|phpsessid|jsessionid|sessionid|sid|ref_src)$", re.I)
_SESSION_PATH = re.compile(r";(jsessionid|phpsessid|sid)=[^/?#]*", re.I)
_NOT_A_PAGE = re.compile(
    r"\.(7z|avi|bin|bmp|bz2|css|csv|deb|dmg|docx?|eot|epub|exe|gif|gz|ico|iso|jar|jpe?g|js|json|m4a|mkv|mov|mp3|mp4|ods|"
    r"odt|ogg|otf|pdf|png|pptx?|ps|rar|rpm|rss|svg|tar|tgz|tiff?|ttf|wav|webm|webp|woff2?|xlsx?|xml|xz|zip|zst)$",
    re.I,
)


def canonical(url: str, base: str = "") -> str | None:
    """Return the one spelling of an http(s) URL, or None when ``url`` is no such URL.

    The fragment, default ports, tracking parameters and session ids go; dots in the path are resolved; parameters are
    sorted. A URL with a user name in it is none of ours.
    """
    try:
        parts = urlsplit(urljoin(base, url.strip()))
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not host or parts.username is not None:
        return None
    try:
        host = host.rstrip(".").lower() if ":" in host else host.rstrip(".").encode("idna").decode("ascii").lower()
    except UnicodeError:
        return None
    netloc = f"[{host}]" if ":" in host else host
    if port is not None and port != {"http": 80, "https": 443}[parts.scheme]:
        netloc += f":{port}"
    path = _SESSION_PATH.sub("", parts.path) or "/"
    resolved = posixpath.normpath(re.sub("/{2,}", "/", path))
    path = resolved + "/" if path.endswith(("/", "/.", "/..")) and not resolved.endswith("/") else resolved
    path = quote(unquote(path, errors="surrogateescape"), safe="/:@!$&'()*+,;=~", errors="surrogateescape")
    pairs = sorted(
        (key, value) for key, value in parse_qsl(parts.query, keep_blank_values=True) if not _TRACKING.match(key)
    )
    whole = urlunsplit((parts.scheme, netloc, path, urlencode(pairs), ""))
    return whole if len(whole) <= MAX_LENGTH else None


def site(url: str) -> str:
    """Return the site of a canonical URL: its host without ``www.``, with its port when that is not the default."""
    return urlsplit(url).netloc.removeprefix("www.")


def origin(url: str) -> str:
    """Return scheme, host and port of a canonical URL."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def looks_like_a_page(url: str) -> bool:
    """Tell whether a link is worth a request: not a picture or an archive, and not the shape of an endless trap."""
    parts = urlsplit(url)
    segments = [segment for segment in parts.path.split("/") if segment]
    if _NOT_A_PAGE.search(parts.path) or len(segments) > 14 or parts.query.count("&") > 7:
        return False
    return not segments or Counter(segments).most_common(1)[0][1] < 3


def words(url: str) -> str:
    """Return the words in a URL's path and query, for ranking."""
    parts = urlsplit(url)
    path = re.sub(r"\.(html?|php|aspx?|jsp|md|txt)$", "", parts.path, flags=re.I)
    return re.sub(r"[/\-_.+%=&]+", " ", unquote(f"{path} {parts.query}")).strip()
