"""Steering where the target is known: particles and correctors on the exact mixture. Writes docs/steer.png and the
table in docs/steer.md.

    python -m benchmarks.steer [--docs docs] [--n 150] [--particles 128]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

import fairlead as fl
from fairlead.core.condition import Condition
from fairlead.report.plots import plot_style

MIXTURE = fl.GaussianMixture.ring(classes=4, radius=1.0, std=0.7)
LABEL, SAMPLER, STEPS = 1, "dpmpp_2m_sde", 50
BEGIN, END = "<!-- measured by python -m benchmarks.steer -->", "<!-- end -->"


@dataclass(frozen=True)
class Options:
    """Sample the mixture with and without particles, and compare with its exact targets."""

    docs: Path = Path("docs")
    """Where steer.md is, and steer.png goes."""
    n: int = 150
    """Samples of a setting."""
    particles: int = 128
    """Of each sample."""


@dataclass(frozen=True)
class Target:
    """A density that something should sample.

    Attributes:
        name: what it is.
        log_density: x [n, 2] -> [n], up to a constant.
        plain, steered: title and samples [n, 2] without and with particles.
    """

    name: str
    log_density: Callable[[Tensor], Tensor]
    plain: tuple[str, Tensor]
    steered: tuple[str, Tensor]


def log_p(x: Tensor, label: int | None = None) -> Tensor:
    return MIXTURE.log_density(x, 1.0, 0.0, None if label is None else torch.full((len(x),), label))


def right(x0: Tensor, t: Tensor, condition: Condition) -> Tensor:
    """A reward without a gradient: 3 where the first coordinate is positive, else 0."""
    return 3.0 * (x0[:, 0] > 0)


def targets(options: Options) -> list[Target]:
    model, k = fl.toy(MIXTURE, "vp_linear"), options.particles
    settings = {"n": options.n, "sampler": SAMPLER, "steps": STEPS, "batch_size": 4096}
    found = []
    for w in (2, 3, 5):
        plain = fl.sample(model, str(LABEL), guidance=f"cfg({w})", **settings)  # type: ignore[arg-type]
        exact = fl.sample(
            model, str(LABEL), guidance=f"fkc(cfg({w}))", particles=fl.Particles(k, every=1), **settings  # type: ignore[arg-type]
        )  # fmt: skip

        def log_density(x: Tensor, w: int = w) -> Tensor:
            return w * log_p(x, LABEL) + (1 - w) * log_p(x)

        name = f"p(x | c)^{w} p(x)^{1 - w}"
        found.append(Target(name, log_density, (f"cfg({w})", plain.x0), (f"fkc(cfg({w}))", exact.x0)))
        print(name, flush=True)
    plain = fl.sample(model, None, **settings)  # type: ignore[arg-type]
    steered = fl.sample(model, None, particles=k, reward=right, **settings)  # type: ignore[arg-type]
    zero, nothing = torch.zeros(()), Condition(0)
    found.append(
        Target(
            "p(x) exp(3 [x > 0])",
            lambda x: log_p(x) + right(x, zero, nothing).double(),
            ("one sample", plain.x0),
            (f"{k} particles", steered.x0),
        )
    )
    return found


def plane(log_density: Callable[[Tensor], Tensor], size: int = 161) -> tuple[Tensor, Tensor, Tensor]:
    """A grid [m, 2] of the plane, the probability of its points [m], and the axis."""
    axis = torch.linspace(-4.5, 4.5, size, dtype=torch.float64)
    x = torch.cartesian_prod(axis, axis)
    return x, log_density(x).softmax(0), axis


def table(found: list[Target]) -> str:
    head = ["target", "sampled by", "mean x", "mean y", "deviation x", "deviation y", "off by at most"]
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head))]
    for target in found:
        x, p, _ = plane(target.log_density)
        mean = (p[:, None] * x).sum(0)
        deviation = (p[:, None] * (x - mean).square()).sum(0).sqrt()
        name = target.name.replace("|", "\\|")
        exact = [*mean.tolist(), *deviation.tolist()]
        lines.append(f"| `{name}` | exact | " + " | ".join(f"{v:.3f}" for v in exact) + " | |")
        for name, samples in (target.plain, target.steered):
            s = samples.double()
            n, spread = len(s), s.std(0)
            fourth = (s - s.mean(0)).pow(4).mean(0)
            of_spread = ((fourth - spread**4) / n).sqrt() / (2 * spread)
            cells = [*zip(s.mean(0), spread / n**0.5, strict=True), *zip(spread, of_spread, strict=True)]
            off = max(abs(float(a) - v) / float(b) for (a, b), v in zip(cells, exact, strict=True))
            lines.append(
                f"| | `{name}` | " + " | ".join(f"{a:.3f} ± {b:.3f}" for a, b in cells) + f" | {off:.1f} errors |"
            )
    return "\n".join(lines)


def draw(found: list[Target], path: Path) -> None:
    with plot_style():
        figure = Figure(figsize=(3.1 * len(found), 6.4), layout="constrained")
        FigureCanvasAgg(figure)
        for row, axes in enumerate(figure.subplots(2, len(found), sharex=True, sharey=True)):
            for panel, target in zip(axes, found, strict=True):
                _, p, axis = plane(target.log_density)
                density = p.reshape(len(axis), len(axis)).T
                levels = [float(density.max()) * share for share in (0.02, 0.1, 0.3, 0.7)]
                name, samples = (target.plain, target.steered)[row]
                panel.scatter(*samples[:500].T, s=5, alpha=0.6, color=("#D55E00", "#0072B2")[row], linewidths=0)
                panel.contour(axis, axis, density, levels=levels, colors="black", linewidths=0.9)
                panel.set(title=name, aspect="equal", xlim=(-4, 4), ylim=(-3.5, 4.5))
                if not row:
                    panel.set_title(f"target: {target.name}\n{name}")
        figure.savefig(path, dpi=100, metadata={"Software": None})


def main(options: Options) -> None:
    found = targets(options)
    draw(found, options.docs / "steer.png")
    said = (
        f"{options.n:,} samples per row, seeds 0 to {options.n - 1}, {options.particles} particles per sample, "
        f"`{SAMPLER}` "
        f"with {STEPS} steps, class {LABEL} of `GaussianMixture.ring(4, 1, 0.7)`; ± is one standard error."
    )
    page = options.docs / "steer.md"
    before, rest = page.read_text().split(BEGIN)
    page.write_text(f"{before}{BEGIN}\n\n{said}\n\n{table(found)}\n\n{END}{rest.split(END)[1]}")
    print(f"page: {page}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(tyro.cli(Options, description=__doc__))
