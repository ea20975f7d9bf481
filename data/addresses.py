"""Addresses of servers."""

from urllib.parse import urlsplit


def base_address(endpoint: str) -> str:
    """The base address of an endpoint, without a slash at its end; a bare host gets the usual "/v1".

    Raises:
        ValueError: if it is no http address, or carries a password or a query, which the message does not show.
    """
    shown = endpoint.strip().rpartition("@")[2].partition("?")[0].partition("#")[0]
    try:
        parts = urlsplit(endpoint.strip())
        bad = parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0
    except ValueError:  # a port that is no number, half of an IPv6 address
        bad = True
    if bad:
        raise ValueError(f"endpoint {shown!r} is no address; want for example http://localhost:8000/v1")
    if "@" in parts.netloc or parts.query or parts.fragment:
        # Addresses are logged and recorded with the run.
        raise ValueError(
            f"endpoint {parts.scheme}://{parts.hostname}: an address with a password or a query would end up in logs; "
            "give the plain address, and the key in the environment variable CIRQUE_API_KEY"
        )
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/') or '/v1'}"
