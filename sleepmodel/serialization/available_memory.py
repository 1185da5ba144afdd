"""How much memory this process can still allocate."""

from __future__ import annotations

from pathlib import Path


def available_memory(meminfo: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that this process can still allocate, swap included, by Linux and by the container's limit; None: unknown.

    Memory that caches files counts as free.
    """
    facts = _numbers(meminfo)
    if "MemAvailable:" not in facts:
        return None
    free = 1024 * facts["MemAvailable:"]
    v2, v1 = ("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")
    for limit, used in (v2, v1):
        texts = [(cgroup / name).read_text().strip() for name in (limit, used) if (cgroup / name).is_file()]
        if len(texts) == 2 and texts[0].isdigit():  # else "max": no limit
            stat = _numbers((cgroup / limit).parent / "memory.stat")
            cached = stat.get("file", stat.get("total_cache", 0))
            free = min(free, int(texts[0]) - int(texts[1]) + cached)
    return free + 1024 * facts.get("SwapFree:", 0)


def _numbers(path: Path) -> dict[str, int]:
    """The first number after each name in a file of the kernel's."""
    lines = [line.split() for line in path.read_text().splitlines()] if path.is_file() else []
    return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdigit()}
