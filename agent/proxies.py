"""How programs that an agent starts get out of its network."""

PROXY_VARIABLES = frozenset(
    {name for proxy in ("all_proxy", "http_proxy", "https_proxy", "no_proxy") for name in (proxy, proxy.upper())}
)
"""Names of the variables that say so."""
