"""Passwords and tokens taken out of text that leaves this process: errors, logs, MLflow, reports, saved specs.

Where it is not clear whether something is secret, it is taken out: a message that says too little can be asked about.
Words such as `tokens` and `image_token` are this library's daily bread and stay.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"
_KEYS = "|".join(
    (
        "password|passwd|passphrase|pwd|secret|credential|api[_-]?key|access[_-]?key|private[_-]?key",
        "(?:access|api|auth|bearer|hf|hub|private|refresh|security|session|tracking)[_-]?token",
    )
)
_QUOTE = r"\\?[\"']"
# quoted, as JSON or libpq quote; else up to a space, & or ;, less what closes the text around it
_VALUE = (
    r"(?:(?P<quote>\\?[\"'])(?P<quoted>(?:(?!(?P=quote))(?:\\.|[^\n]))*)(?P=quote)|(?P<bare>[^\s&;]*[^\s&;'\"},)\]\\]))"
)
_KEY = re.compile(rf"(?:{_KEYS})|(?:^|_)token$", re.I)
_NAMED = (
    re.compile(rf"(?P<key>(?:{_KEYS})[\w-]{{0,40}}(?:{_QUOTE})?[ \t]*[:=][ \t]*){_VALUE}", re.I),
    re.compile(rf"(?P<key>(?<![\w-])(?:x-amz-)?(?:token|signature|sig)=){_VALUE}", re.I),
    re.compile(rf"(?P<key>{_QUOTE}token{_QUOTE}[ \t]*:[ \t]*){_VALUE}", re.I),
    re.compile(rf"(?P<key>[A-Z0-9]_TOKEN[ \t]*=[ \t]*){_VALUE}"),
    re.compile(rf"(?P<key>\bauthorization(?:{_QUOTE})?[ \t]*[:=][ \t]*(?:{_QUOTE})?\w+[ \t]+){_VALUE}", re.I),
    re.compile(rf"(?P<key>\bBearer[ \t]+){_VALUE}"),
)
_PATTERNS = (
    # user:password@ up to the last @ in front of a space. The port of an http server is none: its name has a dot
    (
        re.compile(r"((?!https?://(?:localhost|[\w-]+(?:\.[\w-]+)+):\d{1,5}[/?#])\b[\w+.-]+://[^\s:/@]*):\S*@", re.I),
        rf"\1:{HIDDEN}@",
    ),
    # a password with spaces in it; a port and a path in front of the space are none
    (re.compile(r"(://[^\s:/@]*):(?!\d{1,5}(?:[/?#]\S*)?[\s:;,.)'\"])[^\s@]*[ \t][^\n@]*@"), rf"\1:{HIDDEN}@"),
    (re.compile(r"(https?://)[^\s:/@]+@", re.I), rf"\1{HIDDEN}@"),  # a token alone
    (re.compile(r"\bhf_[A-Za-z0-9]{16,}"), f"hf_{HIDDEN}"),
)


def redacted(text: str) -> str:
    """The text with what is secret in it replaced by `***`."""
    for pattern, put in _PATTERNS:
        text = pattern.sub(put, text)
    for pattern in _NAMED:
        text = pattern.sub(_hidden, text)
    return text


def _hidden(found: re.Match[str]) -> str:
    quote = found["quote"] or ""
    return f"{found['key']}{quote}{HIDDEN}{quote}"


def plain(data: Any) -> Any:
    """Plain data with every text in it redacted, and texts under the name of a secret hidden."""
    if isinstance(data, str):
        return redacted(data)
    if isinstance(data, Mapping):
        return {key: HIDDEN if _is_secret(key, value) else plain(value) for key, value in data.items()}
    return [plain(value) for value in data] if isinstance(data, list | tuple) else data


def _is_secret(key: Any, value: Any) -> bool:
    return isinstance(key, str) and isinstance(value, str) and bool(value) and _KEY.search(key) is not None
