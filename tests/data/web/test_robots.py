"""robots.txt as RFC 9309 has it, and the headers against training."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kontext.data.web.robots import opted_out, parse

TEXT = """
# for everybody
User-agent: *
Disallow: /
Allow: /free/

User-agent: Kontext-Data/2.0
User-agent: other
Disallow: /private
Allow: /private/but*.jpg$
Disallow: /*.gif$   # none of these
Disallow:
Crawl-delay: 1.5
Sitemap: https://a/b.xml
"""


@pytest.mark.parametrize(
    ("agent", "target", "allowed"),
    [
        ("kontext-data (us)", "/", True),
        ("kontext-data", "/private/x.jpg", False),
        ("kontext-data", "/private/but-this.jpg", True),
        ("kontext-data", "/private/but-this.jpg?size=1", False),
        ("OTHER", "/a/b.gif", False),
        ("other", "/a/b.gif?x", True),
        ("somebody", "/a", False),
        ("somebody", "/free/a", True),
        ("kontext-database", "/a", False),
    ],
)
def test_the_longest_rule_of_the_own_group(agent: str, target: str, allowed: bool) -> None:
    assert parse(TEXT, agent).allows(target) is allowed


def test_delays_and_nothing() -> None:
    assert parse(TEXT, "other").delay == 1.5
    assert parse("User-agent: *\nCrawl-delay: 86400", "x").delay == 60
    assert parse("User-agent: *\nCrawl-delay: nan", "x").delay == 0
    assert parse("<html>not found</html>", "x").allows("/a")


@given(st.text(alphabet="a*$/", max_size=40), st.text(alphabet="ab/", max_size=200))
def test_no_pattern_takes_long_and_a_star_fits_all(pattern: str, target: str) -> None:
    rules = parse(f"User-agent: *\nDisallow: {pattern}\nDisallow: /*zz*$", "x")
    rules.allows(target)
    assert (
        not parse(f"User-agent: *\nDisallow: {pattern}*", "x").allows(
            pattern.replace("*", "").removesuffix("$") + target
        )
        or "$" in pattern
    )


@pytest.mark.parametrize(
    ("value", "out"),
    [
        ("noai", True),
        ("noindex, NoImageAI", True),
        ("kontext-data: noai", True),
        ("otherbot: noai, noimageai", False),
        ("noindex", False),
        ("*: noimageai", True),
        ("unavailable_after: 25 Jun 2030 15:00:00 PST", False),
    ],
)
def test_headers_against_training(value: str, out: bool) -> None:
    assert bool(opted_out([("X-Robots-Tag", value)], "kontext-data/1")) is out


def test_reserved_rights() -> None:
    assert opted_out([("TDM-Reservation", "1")], "x") and not opted_out(
        [("tdm-reservation", "0")], "x"
    )
