"""Whether a Redis or Valkey server may be trusted with events: mode, persistence, eviction, role, memory. Best effort.

It asks INFO and CONFIG, which a service's own user should not be permitted: what it may not see is `unknown`.
"""

from collections.abc import Mapping, Sequence

from cauce.ports.transport import Verdict
from cauce.transports.redis.pipeline import RedisCommands, RedisRefusal
from cauce.transports.redis.replies import text, texts

__all__ = ["CLUSTER_CODES", "NO_CLUSTERS", "look", "memory"]

CLUSTER_CODES = ("MOVED", "CLUSTERDOWN", "CROSSSLOT")
"""With these a server of a cluster refuses a command."""
NO_CLUSTERS = "a single server, or a primary with replicas, behind one address"
_NOT_PERMITTED = "this user may not ask (INFO, CONFIG GET)"
_ASK_AN_ADMINISTRATOR = "redis-cli INFO persistence · redis-cli CONFIG GET maxmemory-policy, as an administrator"


async def look(commands: RedisCommands) -> Sequence[Verdict]:
    """What can be seen of the server. Raises RedisTroubleError when it does not answer at all."""
    answers = await commands.ask(("INFO",), ("CONFIG", "GET", "appendfsync"), ("CONFIG", "GET", "save"))
    info: Mapping[str, str] = {} if isinstance(answers[0], RedisRefusal) else _sections(text(answers[0]))
    on_the_way = list(commands.exposed())
    settings: dict[str, str] = {}
    for answer in answers[1:]:
        if not isinstance(answer, RedisRefusal):
            settings |= texts(answer)
    if not info:
        return [
            *on_the_way,
            Verdict("persistence", "unknown", _NOT_PERMITTED, _ASK_AN_ADMINISTRATOR),
            Verdict("eviction", "unknown", _NOT_PERMITTED, _ASK_AN_ADMINISTRATOR),
        ]
    return [*on_the_way, _version(info), *_mode(info), _persistence(info, settings), _eviction(info), _role(info)]


async def memory(commands: RedisCommands) -> Sequence[Verdict]:
    """How full the server is, if it has a limit and tells. Raises RedisTroubleError when it does not answer at all."""
    (answer,) = await commands.ask(("INFO", "memory"))
    info: Mapping[str, str] = {} if isinstance(answer, RedisRefusal) else _sections(text(answer))
    used, limit = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    if not limit:
        return []
    share = used / limit
    state = "good" if share < 0.8 else "weak" if share < 0.95 else "bad"
    fact = f"{share:.0%} of {limit / 1024**2:,.0f} MiB used" + (
        "" if state == "good" else "; when full, nothing is sent"
    )
    return [Verdict("memory", state, fact, "" if state == "good" else "redis-cli CONFIG SET maxmemory …")]


def _sections(answer: str) -> Mapping[str, str]:
    pairs = (line.partition(":") for line in answer.splitlines() if ":" in line and not line.startswith("#"))
    return {name: value.strip() for name, _, value in pairs}


def _version(info: Mapping[str, str]) -> Verdict:
    valkey = info.get("valkey_version")
    shown = f"Valkey {valkey}" if valkey else f"Redis {info.get('redis_version', '?')}"
    major, minor = (int(part) for part in info.get("redis_version", "0.0").split(".")[:2])
    if (major, minor) < (6, 2):
        return Verdict("version", "bad", f"{shown}: too old", "Redis 6.2 or newer, or Valkey", refused=True)
    return Verdict("version", "good", shown)


def _mode(info: Mapping[str, str]) -> Sequence[Verdict]:
    if info.get("cluster_enabled") != "1" and info.get("redis_mode") != "cluster":
        return []
    fact = (
        "the server is part of a cluster, and lanes on its other nodes would hear nothing: clusters are not served yet"
    )
    return [Verdict("mode", "bad", fact, NO_CLUSTERS, refused=True)]


def _persistence(info: Mapping[str, str], settings: Mapping[str, str]) -> Verdict:
    if info.get("aof_enabled") == "1":
        if info.get("aof_last_write_status", "ok") != "ok":
            return Verdict("persistence", "bad", "the append-only file cannot be written", "look at the server's disk")
        if settings.get("appendfsync") == "no":
            fix = "redis-cli CONFIG SET appendfsync everysec"
            return Verdict("persistence", "weak", "append-only file, flushed when the system likes", fix)
        every = {"always": "at every write", "everysec": "every second"}.get(settings.get("appendfsync", ""), "")
        return Verdict("persistence", "good", "append-only file" + (f", flushed {every}" if every else ""))
    fix = "redis-cli CONFIG SET appendonly yes, and the same in the server's configuration file"
    saves = settings.get("save")
    if saves:
        return Verdict("persistence", "weak", f"snapshots only (save {saves}): a crash loses what came since", fix)
    if saves is None:
        return Verdict(
            "persistence", "weak", "no append-only file: a crash loses what came since a snapshot, if any", fix
        )
    return Verdict("persistence", "bad", "none: a restart of the server loses every event it holds", fix)


def _eviction(info: Mapping[str, str]) -> Verdict:
    policy = info.get("maxmemory_policy", "")
    if policy == "noeviction" or policy.startswith("volatile-"):  # our keys never expire
        return Verdict("eviction", "good", policy)
    fix = "redis-cli CONFIG SET maxmemory-policy noeviction"
    if not policy:
        return Verdict("eviction", "unknown", "the server does not say", fix)
    if info.get("maxmemory", "0") == "0":
        return Verdict("eviction", "weak", f"{policy}: harmless only as long as maxmemory is not set", fix)
    return Verdict("eviction", "bad", f"{policy}: a full server throws events away without a word", fix, refused=True)


def _role(info: Mapping[str, str]) -> Verdict:
    if info.get("role", "master") == "master":
        return Verdict("role", "good", "takes writes")
    return Verdict("role", "bad", "a replica, which takes no writes", "put the primary's address into the URL")
