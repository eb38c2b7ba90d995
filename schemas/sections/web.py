"""How pictures with an address on the web are fetched."""

from pydantic import Field

from schemas.sections.base import Section


class WebConfig(Section):
    """Limits and manners of fetching pictures by http and https."""

    allowed_hosts: tuple[str, ...] = Field(
        (), title="Hosts (name, or name:port) that may have private addresses"
    )
    user_agent: str = Field(
        "kontext-data", title="Name in requests, as robots.txt knows it", pattern=r"^[\x20-\x7e]+$"
    )
    max_bytes: int = Field(32 << 20, title="Bytes of a picture, at most", ge=1, le=64 << 20)
    connect_seconds: float = Field(10, title="Time to reach a host, at most, in seconds", gt=0)
    read_seconds: float = Field(20, title="Time without a byte, at most, in seconds", gt=0)
    total_seconds: float = Field(120, title="Time of one request, at most, in seconds", gt=0)
    redirects: int = Field(5, title="Redirects that are followed, at most", ge=0, le=20)
    tries: int = Field(4, title="Times an address is asked, at most, while it may pass", ge=1)
    first_wait: float = Field(1, title="Wait before it is asked again, in seconds; doubled", ge=0)
    longest_wait: float = Field(
        60, title="Longest such wait, also where the server asks for more, in seconds", ge=0
    )
    host_wait: float = Field(
        0.1, title="Time between two requests to one host, at least, in seconds", ge=0
    )
    parallel: int = Field(16, title="Requests at a time of one worker process", ge=1, le=256)
