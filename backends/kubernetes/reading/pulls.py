"""What the registry's words mean when an image cannot be pulled."""

import re
from dataclasses import dataclass

_PREFIXES = re.compile(
    r"^(?:Back-off pulling image \"[^\"]*\":?|ErrImagePull:|Failed to pull image \"[^\"]*\":"
    r"|rpc error: code = \w+ desc =|Error response from daemon:"
    r"|failed to (?:pull and unpack|pull|unpack) image \"[^\"]*\":"
    r"|failed to resolve (?:reference|image) \"[^\"]*\":|failed to do request:|failed to copy:)\s*",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class PullFailure:
    """Why an image cannot be pulled."""

    what: str
    """For people, after "The image x cannot be pulled: "."""
    may_pass: bool = False
    """Whether it may work a moment later with nothing changed."""


# The first that fits counts: what may pass is looked for first, since names of hosts and images may hold any word.
_SORTS = {
    r"toomanyrequests|too many requests|\b429\b|rate.?limit|pull qps exceeded": PullFailure(
        "the registry has had too many pulls", may_pass=True
    ),
    r"i/o timeout|deadline exceeded|timed? ?out|context canceled": PullFailure(
        "the registry did not answer in time", may_pass=True
    ),
    r"connection refused|connection reset|no such host|network is unreachable|no route to host|server misbehaving"
    r"|registry ?unavailable|registry is unavailable|unexpected EOF|\b50[0234]\b|dial tcp": PullFailure(
        "the registry cannot be reached", may_pass=True
    ),
    r"no space left on device": PullFailure("the node's disk is full", may_pass=True),
    r"x509|certificate|server gave HTTP response to HTTPS": PullFailure(
        "the node does not trust the registry's certificate"
    ),
    r"signature ?validation ?failed": PullFailure("its signature is not accepted"),
    r"unauthori[sz]ed|authentication required|authorization failed|forbidden|denied|no basic auth|\b40[13]\b"
    r"|insufficient_scope": PullFailure(
        "the registry refuses it: there is no such image, or the pull secret for it is missing or wrong"
    ),
    r"no match for platform|no matching manifest|does not match the specified platform": PullFailure(
        "there is none for the node's processor"
    ),
    r"not found|manifest unknown|name unknown|does not exist|no such (?:image|manifest)|\b404\b": PullFailure(
        "the registry does not have it"
    ),
}


def pull_failure(words: str) -> PullFailure:
    """Return what is the matter, by what the kubelet and the registry say."""
    for pattern, failure in _SORTS.items():
        if re.search(pattern, words, re.IGNORECASE):
            return failure
    return PullFailure("", may_pass=True)


def registrys_words(words: str) -> str:
    """Return what the registry said, without what the kubelet and the runtime put before it."""
    while found := _PREFIXES.match(words):
        words = words[found.end() :]
    return words.strip()
