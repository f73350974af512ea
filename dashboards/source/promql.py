"""PromQL with the filters of a dashboard in every selector."""

from __future__ import annotations

from dataclasses import dataclass

WINDOW = "[$__rate_interval]"
INSTANCE = 'instance=~"$instance"'
NODE = 'node=~"$node"'
TENANT = 'tenant=~"$tenant"'
ADAPTER = 'component_name=~"$adapter"'
DRIVER = 'driver=~"$driver"'
NAMESPACE = 'namespace=~"$namespace"'


@dataclass(frozen=True, slots=True)
class Scope:
    """What a dashboard chooses by; each method returns an expression over series that it chooses.

    Shape:  `by` are labels, comma separated, empty for one series; `more` are further matchers.
    """

    matchers: tuple[str, ...] = ()

    def of(self, *more: str) -> Scope:
        """Return a narrower scope."""
        return Scope((*self.matchers, *more))

    def at(self, metric: str, *more: str) -> str:
        """Return the selector of a metric."""
        chosen = ",".join((*self.matchers, *more))
        return f"{metric}{{{chosen}}}" if chosen else metric

    def now(self, metric: str, by: str = "", *more: str, how: str = "sum") -> str:
        """Return a gauge."""
        return f"{how}{_by(by)}({self.at(metric, *more)})"

    def rate(self, metric: str, by: str = "", *more: str) -> str:
        """Return what a counter gains a second."""
        return f"sum{_by(by)}(rate({self.at(metric, *more)}{WINDOW}))"

    def gain(self, metric: str, by: str = "", *more: str) -> str:
        """Return what a counter gained over the dashboard's time."""
        return f"sum{_by(by)}(increase({self.at(metric, *more)}[$__range]))"

    def quantile(self, q: float, metric: str, by: str = "", *more: str) -> str:
        """Return a quantile of a histogram; `metric` without `_bucket`."""
        le = f"le, {by}" if by else "le"
        return f"histogram_quantile({q}, {self.rate(f'{metric}_bucket', le, *more)})"

    def mean(self, metric: str, by: str = "", *more: str) -> str:
        """Return the mean of a histogram or summary."""
        counted = self.rate(f"{metric}_count", by, *more)
        return f"{self.rate(f'{metric}_sum', by, *more)} / {counted}"

    def share(self, metric: str, part: str, by: str = "", *more: str) -> str:
        """Return which part of a counter's gain has the matcher `part`."""
        return f"{self.rate(metric, by, part, *more)} / {self.rate(metric, by, *more)}"


def _by(labels: str) -> str:
    return f" by ({labels}) " if labels else ""


GATEWAY = Scope((INSTANCE,))
"""A process with Hono's and Ditto's services or CloudCore."""
MESSAGING = Scope((INSTANCE, TENANT))
ADAPTERS = Scope((INSTANCE, TENANT, ADAPTER))
EDGE = Scope((NODE,))
"""EdgeCores; where a scrape gives no `node`, all processes with an edge in them."""
