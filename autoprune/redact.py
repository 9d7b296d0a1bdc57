"""Passwords and tokens taken out of text that leaves this process: errors, logs, MLflow, reports, saved specs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"
_WORDS = "password|passwd|passphrase|pwd|token|access_token|api_key|apikey|secret|signature|sig|sslpassword"
_PATTERNS = (
    # user:password@ in an address; a port and a path in front of an @ are none
    (re.compile(r"(://[^\s:/@'\"]*):(?!\d{1,5}[/?#])[^\s'\"]*@"), rf"\1:{HIDDEN}@"),
    (re.compile(r"(https?://)[^\s:/@'\"]+@"), rf"\1{HIDDEN}@"),  # a token alone
    (re.compile(rf"((?:^|[?&;\s])(?:x-amz-)?(?:{_WORDS})=)[^\s&;'\"]+", re.I), rf"\1{HIDDEN}"),
    (re.compile(r"\bhf_[A-Za-z0-9]{16,}"), f"hf_{HIDDEN}"),
)


def redacted(text: str) -> str:
    """The text with what is secret in addresses replaced by `***`."""
    for pattern, put in _PATTERNS:
        text = pattern.sub(put, text)
    return text


def plain(data: Any) -> Any:
    """Plain data with every text in it redacted."""
    if isinstance(data, str):
        return redacted(data)
    if isinstance(data, Mapping):
        return {key: plain(value) for key, value in data.items()}
    return [plain(value) for value in data] if isinstance(data, list | tuple) else data
