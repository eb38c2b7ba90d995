"""robots.txt (RFC 9309) and the headers that ask not to be used for training."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

LONGEST = 500 << 10  # bytes of a robots.txt that are read
_SLOWEST = 60.0  # seconds between two requests that are granted
_OPT_OUT = frozenset({"noai", "noimageai"})


@dataclass(frozen=True)
class Robots:
    """What a host asks of one agent: rules (path pattern, allowed), seconds between requests."""

    rules: tuple[tuple[str, bool], ...] = ()
    delay: float = 0.0

    def allows(self, target: str) -> bool:
        """Whether the path may be asked: the longest rule that fits says so, of two the kinder."""
        fitting = [(len(rule), kind) for rule, kind in self.rules if _fits(rule, target)]
        return max(fitting)[1] if fitting else True


NO_RULES = Robots()


def parse(text: str, agent: str) -> Robots:
    """The group of `agent`'s name in a robots.txt, or the one for all."""
    token = _token(agent)
    groups: dict[str, list[tuple[str, str]]] = {}
    names: list[str] = []
    named = False  # whether the last line named an agent: several lines share a group
    for line in text.splitlines():
        key, colon, value = line.partition("#")[0].partition(":")
        key, value = key.strip().lower(), value.strip()
        if not colon:
            continue
        if key == "user-agent":
            names = [*names, _token(value)] if named else [_token(value)]
            named = True
            groups.setdefault(names[-1], [])
        elif key in ("allow", "disallow", "crawl-delay"):
            named = False
            for name in names:
                groups[name].append((key, value))
    lines = groups.get(token, groups.get("*", []))
    rules = tuple((value, key == "allow") for key, value in lines if key != "crawl-delay" and value)
    return Robots(rules, _delay(value for key, value in lines if key == "crawl-delay"))


def _token(agent: str) -> str:
    return "*" if agent.startswith("*") else re.split(r"[/\s]", agent.strip().lower())[0]


def _delay(values: Iterable[str]) -> float:
    found = [float(value) for value in values if re.fullmatch(r"\d{1,6}(\.\d+)?", value)]
    return min(max(found, default=0.0), _SLOWEST)


def _fits(rule: str, target: str) -> bool:
    """Whether a rule's path, with * for anything and $ for the end, begins the target.

    Each part is looked for once, from where the last one ended: no pattern takes long.
    """
    ends = rule.endswith("$")
    first, *parts = rule.removesuffix("$").split("*")
    if not target.startswith(first):
        return False
    at = len(first)
    if ends and not parts:
        return at == len(target)
    for number, part in enumerate(parts):
        if ends and number == len(parts) - 1:
            return target.endswith(part) and len(target) - len(part) >= at
        found = target.find(part, at)
        if found < 0:
            return False
        at = found + len(part)
    return True


def opted_out(headers: Sequence[tuple[str, str]], agent: str) -> str:
    """The header by which a response asks not to be used for training, or "".

    X-Robots-Tag may name an agent: `X-Robots-Tag: otherbot: noai` is not for us.
    """
    for name, value in headers:
        if name.lower() == "tdm-reservation" and value.strip() == "1":
            return "tdm-reservation: 1"
        if name.lower() != "x-robots-tag":
            continue
        named, colon, rest = value.partition(":")
        theirs = bool(colon) and "," not in named
        if theirs and _token(named) not in ("*", _token(agent)):
            continue
        said = {word.strip().lower() for word in (rest if theirs else value).split(",")}
        if said & _OPT_OUT:
            return f"x-robots-tag: {min(said & _OPT_OUT)}"
    return ""
