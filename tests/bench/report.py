"""The figures of a bench for people: a table, a JSON document, a chart."""

from __future__ import annotations

import json
import platform
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

#: workload -> peer -> figure -> value
Medians = dict[str, dict[str, dict[str, float]]]
_COLOURS = {"pgherald": "#2a7f62", "pg_recvlogical": "#b8bfc6"}
_OTHERS = ("#c8553d", "#e0a458", "#8d6b94")


class Figures:
    """Every figure that was taken: workload -> peer -> figure -> one value a run."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._taken: dict[str, dict[str, dict[str, list[float]]]] = defaultdict(
            lambda: defaultdict(lambda: defaultdict(list))
        )

    def note(self, workload: str, peer: str, **figures: float) -> None:
        """Keep figures, and say them."""
        for name, value in figures.items():
            self._taken[workload][peer][name].append(value)
        self._console.print(f"  {peer:22}" + "  ".join(f"{name} {value:,.4g}" for name, value in figures.items()))

    def medians(self) -> Medians:
        """Take the median of each figure's runs."""
        return {
            workload: {peer: {name: median(values) for name, values in of.items()} for peer, of in peers.items()}
            for workload, peers in self._taken.items()
        }


def write(path: Path, found: Medians, ratios: Mapping[str, float], how: Mapping[str, object]) -> None:
    """Write everything as one JSON document."""
    document = {"ratios": ratios, "medians": found, "how": {**how, "machine": platform.machine()}}
    path.write_text(json.dumps(document, indent=2) + "\n")


def show(console: Console, found: Medians, ratios: Mapping[str, float]) -> None:
    """Print the medians of each workload, then the ratios."""
    for workload, of_peer in found.items():
        names = list(dict.fromkeys(name for figures in of_peer.values() for name in figures))
        table = Table(workload, *names, box=None, header_style="bold")
        for peer, figures in of_peer.items():
            table.add_row(peer, *(f"{figures[name]:,.4g}" if name in figures else "" for name in names))
        console.print(table)
    table = Table("ratio", "", box=None, header_style="bold")
    for name, value in ratios.items():
        table.add_row(name, f"{value:,.3g}")
    console.print(table)


def chart(path: Path, found: Medians, figure: str = "rows_per_s", title: str = "rows a second") -> None:
    """Draw one figure of all workloads as bars, a group a workload."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    groups = {name: peers for name, peers in found.items() if any(figure in figures for figures in peers.values())}
    names = list(dict.fromkeys(peer for peers in groups.values() for peer in peers))
    others = iter(_OTHERS)
    colours = {name: _COLOURS.get(name) or next(others) for name in names}
    plot, axes = pyplot.subplots(figsize=(9, 3.6), dpi=120)
    width = 0.8 / len(names)
    for place, name in enumerate(names):
        heights = [peers.get(name, {}).get(figure, 0.0) for peers in groups.values()]
        bars = axes.bar(
            [at + place * width for at in range(len(groups))], heights, width, color=colours[name], label=name
        )
        axes.bar_label(bars, labels=[_short(height) for height in heights], fontsize=7)
    axes.set_xticks([at + 0.4 - width / 2 for at in range(len(groups))], [name.replace("_", " ") for name in groups])
    axes.set_ylabel(title)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    plot.tight_layout()
    plot.savefig(path)


def _short(figure: float) -> str:
    """Write a figure over its bar; nothing where there is none."""
    if figure >= 10_000:
        return f"{figure / 1000:.0f}k"
    return f"{figure:,.0f}" if figure else ""
