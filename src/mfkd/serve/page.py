"""The page on which one drops a picture, with the headers that let it do nothing else."""

import re
from base64 import b64encode
from hashlib import sha256
from importlib.resources import files


def page() -> tuple[str, dict[str, str]]:
    """The page, and its headers: only the style and the script in it run, and they speak to this service alone."""
    text = files("mfkd.serve").joinpath("page.html").read_text(encoding="utf-8")
    policy = {
        "default-src": "'none'",
        "style-src": _hash("style", text),
        "script-src": _hash("script", text),
        "img-src": "blob: data:",
        "connect-src": "'self'",
        "form-action": "'self'",
        "base-uri": "'none'",
        "frame-ancestors": "'none'",
    }
    return text, {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }


def _hash(tag: str, text: str) -> str:
    (inner,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, flags=re.S)
    return f"'sha256-{b64encode(sha256(inner.encode()).digest()).decode()}'"
