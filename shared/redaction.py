"""What nobody is shown: passwords in URLs, values under secret names, secrets that a target sends back. Pure.

Arguments must be kept as they are to run a job, so they are masked where they are shown: in documents of
the API, exports, logs and messages. All of it takes time in proportion to the text, whatever a stranger
wrote, and to mask what is masked changes nothing. Decision 0036 says what is masked where, and why.
"""

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from html.entities import codepoint2name
from typing import Any, Final, TypeVar
from urllib.parse import unquote

MASK: Final = "***"
"""Stands for what is not shown, alone or with a digest. A mask that is submitted for a secret is refused."""

MIN_ECHO_CHARACTERS: Final = 6
"""A shorter secret is not looked for in what a target sends: it would be found in words."""

T = TypeVar("T")

# Enough for a person to tell a few thousand values apart. Keyed, so that nobody can try values at home.
_DIGEST_BYTES = 3

# A stretch of text in which user, password and host of a URL may stand. The URL Standard ends an authority at
# a slash or backslash, `?` and `#`; the others end a URL in a text, and are percent-encoded within one.
_STRETCH = re.compile(r'[^\s/\\?#"<>]+')
_SLASHES = "/\\"
# The schemes that the Standard reads without slashes, or with one.
_LOOSE_SCHEME = re.compile(r"(?:https?|wss?|ftp):", re.IGNORECASE)
_SCHEME_AND_SLASH = re.compile(r"(?<![A-Za-z0-9+.-])(?:https?|wss?|ftp):[/\\]\Z", re.IGNORECASE)
_LONGEST_SCHEME = 8
# A URL as the value of a query, percent-encoded once or more.
_ENCODED_URL = re.compile(
    r"((?:%(?:25)*+(?:2F|5C)){2})((?:(?!%(?:25)*+(?:2F|5C|3F|23))[^&])++)", re.IGNORECASE
)
_ENCODED_AT = re.compile(r"%(?:25)*+40|@", re.IGNORECASE)
# What may follow the digits of a port in a text.
_AFTER_PORT = frozenset(",;:.)]}'|`*!&=…")
# What our own words and manuals say of a URL.
_PLACEHOLDERS = frozenset({"user:password", "user:pass", "username:password"})
_HOST_AND_PORT = "host:port"

_QUERY_VALUE = re.compile(r"([?&;])([^\s=&;?#\"<>]{1,100})=([^\s&;#\"<>]+)")
# A name and its text, as JSON, Python and JSON in a cell of CSV write them; the end may be cut off.
_QUOTED_PAIR = re.compile(
    r"""(\\{0,3}(["'])\2?)([^"'\\\s]{1,100})\1(\s{0,9}:\s{0,9}b?)(\\{0,3}(["'])\6?)((?:(?!\5)(?:\\.|[^\\]))*+)""",
    re.DOTALL,
)
_LOGIN = re.compile(r"\b(Bearer|Basic)( +)([A-Za-z0-9._~+/=-]{12,})")
# Of a key of ours (producer/keys.py) the start stays: by it the key is found, and revoked.
_OWN_KEY = re.compile(r"(rtv_[0-9A-Za-z]{8}_)[0-9A-Za-z]{20,}")
_ENDED_BY = re.compile(r"[/\\?#]")
_MASKED = re.compile(r"(?:[/\\]{1,2}|:|%2F|%5C|\A)\*\*\*(?:[0-9a-f]{6})?(?:@|%(?:25)*40)", re.IGNORECASE)
_MASK = re.compile(r"\*\*\*(?:[0-9a-f]{6})?")
# Percent-encoding upon percent-encoding, as URLs in URLs have it.
_MOST_ENCODED = 3

# A text of JSON, and whether it is a name.
_JSON_STRING = re.compile(r'"((?:[^"\\]|\\.)*+)"(:?)')
_UNESCAPED = re.compile(r"[0-9A-Za-z]+")
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_SECRET_WORDS = frozenset(
    (
        *("auth", "authentication", "authorization", "bearer", "cookies", "credentials", "csrf", "jwt"),
        *("pass", "passphrase", "pwd", "secrets", "sessionid", "sig", "tokens", "xsrf"),
    )
)
_SECRET_ENDINGS = ("apikey", "cookie", "credential", "passwd", "password", "secret", "signature", "token")
_KEY_OWNERS = frozenset(
    (
        *("access", "account", "api", "app", "application", "auth", "client", "encryption", "master"),
        *("private", "secret", "service", "shared", "signing", "subscription"),
    )
)
# Where a list goes on, and how many words a model may write.
_TELLING = re.compile(
    "auth|bearer|cookie|credential|csrf|jwt|key|pass|pwd|secret|session|sig|token|xsrf", re.IGNORECASE
)
_HARMLESS_TOKENS = frozenset({"continuation", "next", "page", "sync"})
_HARMLESS_KEYS = frozenset({"idempotency-key", "sec-websocket-key", "surrogate-key"})
# Of signed URLs (OpenTelemetry, semantic conventions for URLs), and what Google calls an API key.
_SECRET_PARAMETERS = frozenset({"awsaccesskeyid", "key", "x-amz-credential", "x-goog-credential"})


class _Digests:
    """What this process makes digests with; the settings say it once, at the start, as they do for logs."""

    keyed: "hashlib.blake2b | None" = None


def use_mask_key(key: bytes | None) -> None:
    """Put digests into the masks of this process from now on, made with a key; none without one."""
    _Digests.keyed = None if key is None else hashlib.blake2b(key=key, digest_size=_DIGEST_BYTES)


def digest_of(value: str) -> str | None:
    """Return by what people tell that two values are the same, without seeing them; None without a key."""
    if _Digests.keyed is None:
        return None
    digest = _Digests.keyed.copy()
    digest.update(value.encode(errors="surrogatepass"))
    return digest.hexdigest()


def masked(value: str) -> str:
    """Return what is shown in place of a value: the same for the same one, if there is a key for masks."""
    return value if _MASK.fullmatch(value) else f"{MASK}{digest_of(value) or ''}"


def redact_text(text: str) -> str:
    """Return a text for people, without user and password of any URL in it.

    Both go, as OpenTelemetry demands for `url.full`: a token often stands in the place of the user. A URL
    that was cut before its `@` counts too, if what stands for its port is none.
    """
    return _redact(text, is_cut=True)


def redact_url(text: str) -> str:
    """Return what was handed in as one URL, however malformed, without user and password.

    They may have blanks and quotes in them; and where no host and port can be told from them, all goes up to
    the last `@`.
    """
    if "@" not in text and ":" not in text:
        return text
    start = _authority_start(text)
    if start is None:
        return _redact_bare(text)
    end = found.start() if (found := _ENDED_BY.search(text, start)) else len(text)
    authority = text[start:end]
    if "@" in authority:
        hidden = start + authority.rindex("@")
    elif _has_no_port(authority):
        hidden = text.rfind("@", start)
        if hidden < 0:
            return text[:start] + MASK + _redact(text[end:], is_cut=False)
    else:
        hidden = start
    shown = _masked_user(text[start:hidden]) if hidden > start else ""
    return text[:start] + shown + _redact(text[hidden:], is_cut=False)


def redact_query(text: str) -> str:
    """Return a text without the values of query parameters that open something, such as `sig` and `token`.

    For logs alone: to its owner a URL without them is another one.
    """
    if "=" not in text:
        return text
    return _QUERY_VALUE.sub(
        lambda found: f"{found[1]}{found[2]}={masked(_decoded(found[3]))}" if _opens(found[2]) else found[0],
        text,
    )


def redact_pairs(text: str) -> str:
    """Return a text without the values that JSON or Python in it has under secret names."""
    if ":" not in text:
        return text
    return _QUOTED_PAIR.sub(_redact_pair, text)


def redact_logged(text: str) -> str:
    """Return a text as a log may have it."""
    without_pairs = redact_query(redact_pairs(redact_text(text)))
    without_logins = _LOGIN.sub(lambda found: f"{found[1]}{found[2]}{masked(found[3])}", without_pairs)
    return _OWN_KEY.sub(rf"\1{MASK}", without_logins) if "rtv_" in without_logins else without_logins


def redact_value(value: Any) -> Any:
    """Return a JSON value without credentials of URLs, and without texts under names such as `password`."""
    if isinstance(value, str):
        return _redact(value, is_cut=False)
    if isinstance(value, dict):
        return {
            redact_text(name): masked(inner)
            if isinstance(inner, str) and inner and is_secret_name(name)
            else redact_value(inner)
            for name, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [redact_value(inner) for inner in value]
    return value


def redact_args(args: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the arguments of a job as they are shown; names of secrets of workers stay."""
    # Of most jobs these are a URL and a few numbers. The names are ours, and none of them is secret.
    return {
        name: _redact(value, is_cut=False)
        if isinstance(value, str)
        else value
        if isinstance(value, int | float)
        else _redact_part(name, value)
        for name, value in args.items()
    }


def redact_submission(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what `POST /jobs` or `POST /batches` takes, as it is shown."""
    shown = dict(document)
    for name in ("args", "defaults"):
        if isinstance(args := document.get(name), Mapping):
            shown[name] = redact_args(args)
    if isinstance(items := document.get("items"), list):
        shown["items"] = [redact_args(item) if isinstance(item, Mapping) else item for item in items]
    return shown


def may_hide(text: str) -> bool:
    """Return whether a JSON text may have anything in it that is masked; most have not, and are not read."""
    if "@" in text or ("%" in text and _ENCODED_AT.search(text)):
        return True
    return any(_is_telling(found[1]) for found in _JSON_STRING.finditer(text) if found[2])


def masked_places(document: object, at: str = "") -> Iterator[str]:
    """Yield the JSON pointers of the values in which a mask stands for something that was hidden."""
    match document:
        case str():
            if _MASKED.search(document):
                yield at
        case Mapping():
            for name, value in document.items():
                place = f"{at}/{name.replace('~', '~0').replace('/', '~1')}"
                if isinstance(value, str) and _MASK.fullmatch(value) and is_secret_header(name):
                    yield place
                else:
                    yield from masked_places(value, place)
        case list() | tuple():
            for index, value in enumerate(document):
                yield from masked_places(value, f"{at}/{index}")


@lru_cache(maxsize=1_024)
def _is_secret_name(name: str) -> bool:
    words = [word.lower() for word in _WORDS.findall(name)]
    for before, word in zip(["", *words], words, strict=False):
        if word in _SECRET_WORDS or (word.endswith(_SECRET_ENDINGS) and before not in _HARMLESS_TOKENS):
            return True
        if word == "key" and before in _KEY_OWNERS:
            return True
    return False


def is_secret_name(name: str) -> bool:
    """Return whether what stands under a name opens something: `password`, `api_key`, `accessToken`."""
    # A long name is a text. Most names are told at once, and not remembered.
    return len(name) <= 100 and _TELLING.search(name) is not None and _is_secret_name(name)


def is_secret_header(name: str) -> bool:
    """Return whether the value of a header field is secret: by its name, or because it is called a key."""
    lowered = name.lower()
    is_key = lowered.endswith("-key") and lowered not in _HARMLESS_KEYS
    return is_key or lowered.startswith("proxy-auth") or is_secret_name(name)


@dataclass(frozen=True, slots=True)
class Echoes:
    """Masks what a request said in secret, wherever its target says it again.

    This is against accidents: whoever may use a secret can have a target say it in a way that nobody knows.
    """

    _in_text: re.Pattern[str] | None = None
    _in_octets: re.Pattern[bytes] | None = None
    _cores: tuple[bytes, ...] = ()

    @staticmethod
    @lru_cache(maxsize=256)
    def of(values: frozenset[str]) -> "Echoes":
        """Return the masker of some secrets, in the spellings in which targets repeat what they got."""
        said = {value for value in values if len(value) >= MIN_ECHO_CHARACTERS}
        if not said:
            return NO_ECHOES
        # The longest first: one may begin as another does.
        pattern = "|".join(
            each for value in sorted(said, key=len, reverse=True) for each in _spellings(value)
        )
        cores = (core for value in said for core in (_core(value), _base64(value)))
        return Echoes(
            re.compile(pattern),
            re.compile(pattern.encode(errors="surrogateescape")),
            tuple(core.encode() for core in cores),
        )

    def __bool__(self) -> bool:
        """Whether there is anything to look for."""
        return self._in_text is not None

    def __repr__(self) -> str:
        return f"Echoes({bool(self)})"

    def text(self, text: str) -> str:
        """Return a text without them."""
        return text if self._in_text is None else self._in_text.sub(MASK, text)

    def may_be_in(self, content: bytes) -> bool:
        """Return quickly whether a body may hold one: what no rule escapes is in each spelling."""
        return any(core in content for core in self._cores)

    def octets(self, content: bytes) -> bytes:
        """Return a body without them, where it is in UTF-8 or a charset that agrees with it."""
        return content if self._in_octets is None else self._in_octets.sub(MASK.encode(), content)

    def value(self, value: T) -> T:
        """Return a JSON value without them."""
        if not self:
            return value
        masked: Any = value
        match value:
            case str():
                masked = self.text(value)
            case dict():
                masked = {self.value(name): self.value(inner) for name, inner in value.items()}
            case list():
                masked = [self.value(inner) for inner in value]
        return masked  # type: ignore[no-any-return]


NO_ECHOES: Final = Echoes()


def _redact(text: str, *, is_cut: bool) -> str:
    if "@" not in text and not (is_cut and "//" in text) and "%" not in text:
        return text
    parts: list[str] = []
    kept = 0
    for found in _STRETCH.finditer(text):
        start, stretch = found.start(), found[0]
        shown = _redact_stretch(text[max(0, start - _LONGEST_SCHEME) : start], stretch, is_cut=is_cut)
        if shown is not stretch:
            parts += (text[kept:start], shown)
            kept = found.end()
    return "".join((*parts, text[kept:])) if parts else text


def _redact_stretch(before: str, stretch: str, *, is_cut: bool) -> str:
    """Return a stretch, itself if nothing is to be hidden; `before` is what stands in front of it."""
    is_authority = len(before) > 1 and before[-1] in _SLASHES and before[-2] in _SLASHES
    if "@" in stretch:
        at = stretch.rindex("@")
        start = 0 if is_authority or _SCHEME_AND_SLASH.search(before) else None
        if start is None and (scheme := _LOOSE_SCHEME.search(stretch)):
            start = scheme.end()
        if start is not None and start < at and stretch[start:at] not in _PLACEHOLDERS:
            return f"{stretch[:start]}{_masked_user(stretch[start:at])}{stretch[at:]}"
    elif is_cut and is_authority and _has_no_port(stretch):
        return MASK
    if "%" in stretch:
        shown = _ENCODED_URL.sub(_redact_encoded, stretch)
        return stretch if shown == stretch else shown
    return stretch


def _redact_encoded(found: re.Match[str]) -> str:
    at = 0
    for at_sign in _ENCODED_AT.finditer(found[2]):
        at = at_sign.start()
    return f"{found[1]}{_masked_user(found[2][:at])}{found[2][at:]}" if at else found[0]


def _redact_pair(found: re.Match[str]) -> str:
    value, end = found[7], found.end()
    if not value or not is_secret_header(found[3]):
        return found[0]
    # What was cut off, or is escaped, is another text than the value, and its digest would be another one.
    is_whole = found.string.startswith(found[5], end) and "\\" not in value
    return f"{found[1]}{found[3]}{found[1]}{found[4]}{found[5]}{masked(value) if is_whole else MASK}"


def _masked_user(text: str) -> str:
    """Return what is shown in place of user and password of a URL, however often they are percent-encoded."""
    return text if _MASK.fullmatch(text) else masked(_decoded(text))


def _decoded(text: str) -> str:
    for _ in range(_MOST_ENCODED):
        if "%" not in text:
            break
        text = unquote(text, errors="surrogateescape")
    return text


def _has_no_port(authority: str) -> bool:
    """Return whether what stands where a port would be is none, so that it is rather a password."""
    _, colon, port = authority.partition(":")
    if not colon or authority[0] == "[" or authority == _HOST_AND_PORT:
        return False
    rest = port.lstrip("0123456789")
    return bool(rest) and rest[0] not in _AFTER_PORT


def _authority_start(text: str) -> int | None:
    """Return where user, password and host begin in what was meant as a URL; None if that is unclear."""
    slashes = re.search(r"[/\\]{2}", text)
    scheme = _LOOSE_SCHEME.search(text)
    if scheme is not None and (slashes is None or slashes.start() > scheme.end()):
        start = scheme.end()
    elif slashes is not None:
        start = slashes.end()
    else:
        return None
    while start < len(text) and text[start] in _SLASHES:
        start += 1
    return start


def _redact_bare(text: str) -> str:
    """Return a text without the `user:password@` at its beginning."""
    end = found.start() if (found := _ENDED_BY.search(text)) else len(text)
    at = text.rfind("@", 0, end)
    colon = text.find(":", 0, max(at, 0))
    if colon < 0 or text[:colon].strip().lower() == "mailto":
        return _redact(text, is_cut=False)
    return _masked_user(text[:at]) + _redact(text[at:], is_cut=False)


def _redact_part(name: str, value: Any) -> Any:
    match name, value:
        case "headers", Mapping():
            return {
                field: masked(inner)
                if isinstance(inner, str) and is_secret_header(field)
                else _reference_or(inner)
                for field, inner in value.items()
            }
        case "auth", Mapping():
            return {field: _reference_or(inner) for field, inner in value.items()}
        case _:
            return redact_value(value)


def _reference_or(value: Any) -> Any:
    """Return the reference to a secret as it is, which tells its name alone; anything else as it is shown."""
    return value if isinstance(value, Mapping) and set(value) == {"secret"} else redact_value(value)


def _is_telling(name: str) -> bool:
    """Return whether a name, as JSON writes it, is itself or its value masked."""
    return "//" in name or "\\" in name or is_secret_header(name)


def _opens(parameter: str) -> bool:
    name = unquote(parameter).lower()
    return name in _SECRET_PARAMETERS or is_secret_header(unquote(parameter))


def _spellings(value: str) -> Iterator[str]:
    """Yield patterns of a text as it is, or escaped by any of the usual rules, and of its base64."""
    yield "".join(map(_spelled, value))
    yield re.escape(_base64(value))


def _base64(value: str) -> str:
    # A lone surrogate stands for an octet of a URL's password that is no UTF-8.
    return base64.b64encode(value.encode(errors="surrogateescape")).decode().rstrip("=")


def _core(value: str) -> str:
    return max(_UNESCAPED.findall(value), key=len, default="")


def _spelled(character: str) -> str:
    if character.isascii() and character.isalnum():
        return character
    code, plain = ord(character), re.escape(character)
    # JSON may have a backslash before a slash, and a form writes a blank as +.
    plain = rf"\\?{plain}|\+" if character == " " else rf"\\?{plain}"
    percent = "".join(f"%(?:25)?{octet:02x}" for octet in character.encode(errors="surrogateescape"))
    named = f"|&{name};?" if (name := codepoint2name.get(code)) else ""
    return rf"(?:{plain}|(?i:{percent}|\\u{code:04x}|&#0*{code};|&#x0*{code:x};{named}))"
