"""What looks like a secret stays out of logs, reports and records."""

import re
from typing import Any

HIDDEN = "(hidden)"
NAME = r"(?:\w*[_.-])?(?:key|token|secret|password|passwd|passphrase|credentials?)"

_NAMED = re.compile(NAME, re.IGNORECASE)
_OPTION = re.compile(rf"-*(?:[\w.-]*\.)?{NAME}", re.IGNORECASE)
_LINE = re.compile(
    rf"^([ \t-]*[\"']?{NAME}[\"']?[ \t]*:[ \t]*)(?!(?:null|\d+)?[ \t]*$)(\S.*)$", re.IGNORECASE | re.MULTILINE
)
_ADDRESS = re.compile(r"(?<=://)[^/@\s]+(?=@)")


def without_secrets(value: Any) -> Any:
    """Return plain values with ``(hidden)`` for texts under names that end as those of secrets do.

    Args:
        value: Dicts, lists, texts and numbers, nested at will.

    Example:
        >>> without_secrets({"api_key": "abc", "steps": 3, "host": "https://me:abc@example.org"})
        {'api_key': '(hidden)', 'steps': 3, 'host': 'https://(hidden)@example.org'}
    """
    if isinstance(value, dict):
        return {
            name: HIDDEN if isinstance(part, str) and _NAMED.fullmatch(str(name)) else without_secrets(part)
            for name, part in value.items()
        }
    if isinstance(value, list | tuple):
        return [without_secrets(part) for part in value]
    return _ADDRESS.sub(HIDDEN, value) if isinstance(value, str) else value


def without_secrets_in_text(text: str) -> str:
    r"""Return YAML, one option a line, with ``(hidden)`` for what ``without_secrets`` would hide.

    Example:
        >>> print(without_secrets_in_text("logger:\n  api_key: abc\n  steps: 3"))
        logger:
          api_key: (hidden)
          steps: 3
    """
    return _ADDRESS.sub(HIDDEN, _LINE.sub(rf"\g<1>{HIDDEN}", text))


def without_secrets_in_words(words: list[str]) -> list[str]:
    """Return the words of a command line with ``(hidden)`` for the values of such options.

    Example:
        >>> without_secrets_in_words(["--logger.api_key", "abc", "--token=abc", "--steps=3"])
        ['--logger.api_key', '(hidden)', '--token=(hidden)', '--steps=3']
    """
    shown: list[str] = []
    for place, word in enumerate(words):
        name, equals, _ = word.partition("=")
        option = word.startswith("-") and _OPTION.fullmatch(name) is not None
        if option and equals:
            shown.append(f"{name}={HIDDEN}")
        elif place and _OPTION.fullmatch(words[place - 1]) and words[place - 1].startswith("-") and not option:
            shown.append(HIDDEN)
        else:
            shown.append(_ADDRESS.sub(HIDDEN, word))
    return shown
