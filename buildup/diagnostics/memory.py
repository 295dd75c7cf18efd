"""How much memory is free, so that what does not fit is refused, or cut into pieces, before it is tried."""

from pathlib import Path

import torch


def free_memory(device: torch.device) -> float:
    """Bytes; without an end where the system does not tell."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    table = Path("/proc/meminfo")
    lines = table.read_text(encoding="utf-8").splitlines() if table.is_file() else []
    known = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return 1024 * float(known[0]) if known else float("inf")
