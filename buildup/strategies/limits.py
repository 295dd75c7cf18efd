"""What a candidate may cost at most."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a candidate may cost. One that costs more is dropped untrained."""

    max_params: int | None = None
    max_macs: int | None = None

    def passed(self, params: int, macs: int) -> str | None:
        """Which limit a candidate passes, in words; None where it fits.

        >>> Limits(max_params=30_000_000).passed(33_013_028, 1_510_000_000)
        '33,013,028 parameters are more than --max-params 30,000,000'
        """
        for cost, limit, name, flag in (
            (params, self.max_params, "parameters", "--max-params"),
            (macs, self.max_macs, "MACs", "--max-macs"),
        ):
            if limit is not None and cost > limit:
                return f"{cost:,} {name} are more than {flag} {limit:,}"
        return None
