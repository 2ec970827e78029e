"""The search for the best scale against exact truths: coverage of its intervals, and what common seeds save.

    python -m benchmarks.tune truth                              the best scales that the tests know
    python -m benchmarks.tune coverage --turn 0.5 --budget 8000 --seeds 200
    python -m benchmarks.tune ratio --turn 0.5 --budget 8000 --seeds 100
    python -m benchmarks.tune choices                            what the fit rests on

From the repository root; the toys are those of ``tests/tune/exact.py``. ``ratio`` gives the unpaired grid every
benefit: fresh seeds for every setting, the exact distances with normal noise of their exact variance, any number of
settings on the range, any window of the fit, whichever is best in hindsight at that number of images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
import tyro
from tests.tune.exact import BEST, REFERENCE, Linear, Toy
from torch import Tensor

from fairlead.measure.frechet import influence
from fairlead.tune.measurements import DISTANCE, Measurement, Together, together, z_of
from fairlead.tune.one_knob import Found, search
from fairlead.tune.parabola import parabola
from fairlead.tune.template import Knob

LOW, HIGH = 1.0, 4.0


@dataclass(frozen=True)
class Truth:
    """Print the best scale of every toy."""

    def run(self) -> None:
        for turn in BEST:
            for toy in (Toy(turn), Linear(turn)):
                best = toy.best(LOW, HIGH)
                print(f"{type(toy).__name__} turn {turn}: best scale {best:.7f}, distance {toy.distance(best):.7f}")


@dataclass(frozen=True)
class Coverage:
    """Search with many draws of the noise.

    Attributes:
        turn: see the toys.
        budget: images a search.
        seeds: draws.
        linear: the toy of one Gaussian a class.
        wanted: stop at this half-width.
    """

    turn: float = 0.5
    budget: int = 8000
    seeds: int = 200
    linear: bool = False
    wanted: float = 0.0

    def run(self) -> tuple[float, float]:
        """Prints what it found; (mean half-width, mean images)."""
        kind = Linear if self.linear else Toy
        best = math.log(kind(self.turn).best(LOW, HIGH) if self.linear else BEST[self.turn])
        found = [self.one(kind(self.turn, 10_000 + seed)) for seed in range(self.seeds)]
        logs = torch.tensor([(f.value, f.low, f.high) for f in found], dtype=torch.float64).log() - best
        error, low, high = logs.T
        half = float((high - low).mean() / 2)
        images = sum(f.images for f in found) / len(found)
        hits = int(((low <= 0) & (high >= 0)).sum())
        within = 100 * float(error.abs().quantile(0.95))
        settings = sum(len(f.points) for f in found) / len(found)
        print(
            f"{kind.__name__} turn {self.turn} budget {self.budget}: truth in {hits} of {self.seeds} intervals; "
            f"half-width {100 * half:.2f} % of the scale, 95 % of errors within {within:.2f} %, mean error "
            f"{100 * float(error.mean()):+.2f} %; {images:.0f} images, {settings:.1f} settings",
            flush=True,
        )
        return half, images

    def one(self, toy: Toy) -> Found:
        return search(toy, REFERENCE, Knob(LOW, HIGH), budget=self.budget, wanted=self.wanted)


@dataclass(frozen=True)
class Ratio:
    """Images that an unpaired grid needs for the half-width of the search.

    Attributes:
        turn, budget, seeds: as for ``coverage``.
    """

    turn: float = 0.5
    budget: int = 8000
    seeds: int = 100

    def run(self) -> None:
        half, images = Coverage(self.turn, self.budget, self.seeds).run()
        toy, best = Toy(self.turn), math.log(BEST[self.turn])
        for what, fit in (("parabola over the best window", True), ("lowest of the grid", False)):
            tried = [
                (needed, k, window)
                for k in (5, 7, 9, 13, 17, 25, 33, 49, 65, 97)
                # a coarse grid is right only by the luck of where it lies
                if fit or math.log(HIGH / LOW) / (k - 1) <= 2 * half
                for window in (range(5, min(k, 33) + 1, 2) if fit else (1,))
                if (needed := self.needed(toy, best, half, k, window)) is not None
            ]
            if not tried:
                print(f"unpaired, {what}: not with any number of images up to 10^8")
                continue
            needed, k, window = min(tried)
            print(
                f"unpaired, {what}: {needed:.3g} images ({k} settings, window of {window}) for 95 % of errors within "
                f"{100 * half:.2f} %; {needed / images:.1f} times as many as the search",
                flush=True,
            )

    def needed(self, toy: Toy, best: float, half: float, k: int, window: int) -> float | None:
        """Images of a grid of k settings until 95 % of its errors are within ``half``."""
        places = torch.linspace(math.log(LOW), math.log(HIGH), k, dtype=torch.float64)
        curve = [self.at(toy, float(place)) for place in places]
        distances, spreads = (torch.tensor(column, dtype=torch.float64) for column in zip(*curve, strict=True))
        noise = torch.randn(2000, k, dtype=torch.float64, generator=torch.Generator().manual_seed(k)) * spreads
        for power in range(10 * 10):
            images = 1000 * 10 ** (power / 20)
            losses = distances + noise / math.sqrt(images / k)
            errors = (vertices(places, losses, window) - best).abs()
            if float(errors.quantile(0.95)) <= half:
                return images
        return None

    def at(self, toy: Toy, place: float) -> tuple[float, float]:
        """The exact distance, and the standard deviation of one sample's influence on it."""
        if (key := (self.turn, round(place, 9))) not in CURVE:
            scale = math.exp(place)
            features = toy((scale,), range(1 << 14)).features
            CURVE[key] = toy.distance(scale), float(influence(real=REFERENCE, fake_features=features).std())
        return CURVE[key]


CURVE: dict[tuple[float, float], tuple[float, float]] = {}


def vertices(places: Tensor, losses: Tensor, window: int) -> Tensor:
    """For every row of losses [r, k] the lowest place, or the vertex of least squares over the window about it."""
    lowest = losses.argmin(dim=1)
    if window == 1:
        return places[lowest]
    start = (lowest - window // 2).clamp(0, len(places) - window)
    chosen = start[:, None] + torch.arange(window)
    u = torch.arange(window, dtype=torch.float64) - (window - 1) / 2
    take = torch.linalg.pinv(torch.stack([u**0, u, u * u], dim=1))
    b = losses.gather(1, chosen) @ take.T
    vertex = torch.where(b[:, 2] > 0, -b[:, 1] / (2 * b[:, 2]), torch.inf)
    vertex = vertex.where(vertex.abs() <= window / 2, places.new_tensor(torch.inf))  # no vertex: take the lowest
    middle = places[start] + (places[1] - places[0]) * ((window - 1) / 2 + vertex)
    return middle.where(middle.isfinite(), places[lowest])


@dataclass(frozen=True)
class Choices:
    """How far five settings put the vertex from the truth: in log(scale) or the scale, by plain or by generalised least
    squares.

    Attributes:
        turn: see the toys.
        seeds: draws of the noise.
    """

    turn: float = 0.3
    seeds: int = 40

    def run(self) -> None:
        best = BEST[self.turn]
        toy = Toy(self.turn)
        for step in (0.05, 0.1, 0.2):
            found = {}
            for name, knob in (("log(scale)", Knob(LOW, HIGH)), ("scale", Knob(LOW, HIGH, log=False))):
                middle = knob.place(best)
                unit = step if knob.log else step * best
                places = [middle + unit * i for i in (-2, -1, 0, 1, 2)]
                exact = torch.tensor([toy.distance(knob.value(place)) for place in places], dtype=torch.float64)
                vertex = parabola(places, Together(exact, torch.zeros(5, 5, dtype=torch.float64), 1), 0.0)
                found[name] = 100 * (knob.value(vertex.place) / best - 1)
            print(
                f"steps of {step:.0%}, exact distances: " + ", ".join(f"over {k} {v:+.3f} %" for k, v in found.items())
            )
        knob = Knob(LOW, HIGH)
        for step, n in ((0.3, 200), (0.15, 1000)):
            off = torch.tensor([self.errors(Toy(self.turn, seed), knob, step, n) for seed in range(self.seeds)])
            for name, column in zip(("plain", "generalised"), off.T, strict=True):
                size = 100 * float((column**2).mean().sqrt())
                print(
                    f"steps of {step:.0%}, {n} images each: {name} least squares is {size:.2f} % off (rms)", flush=True
                )

    def errors(self, toy: Toy, knob: Knob, step: float, n: int) -> tuple[float, float]:
        middle = math.log(BEST[self.turn])
        places = [middle + step * (i + 0.3) for i in (-2, -1, 0, 1, 2)]
        measured = []
        for place in places:
            setting = (math.exp(place),)
            measured.append(Measurement(setting, range(n), toy(setting, range(n)), REFERENCE))
        losses = together(measured, DISTANCE)
        u = torch.tensor(places, dtype=torch.float64) - middle
        x = torch.stack([u**0, u, u * u], dim=1)
        scale = float(losses.covariance.diagonal().mean())
        weight = torch.linalg.inv(losses.covariance + 1e-9 * scale * torch.eye(5, dtype=torch.float64))
        b = torch.linalg.solve(x.T @ weight @ x, x.T @ weight @ losses.values)
        return parabola(places, losses, z_of(0.95)).place - middle, -float(b[1] / (2 * b[2]))


if __name__ == "__main__":
    torch.set_num_threads(1)
    Command = (
        Annotated[Truth, tyro.conf.subcommand("truth")]
        | Annotated[Coverage, tyro.conf.subcommand("coverage")]
        | Annotated[Ratio, tyro.conf.subcommand("ratio")]
        | Annotated[Choices, tyro.conf.subcommand("choices")]
    )
    tyro.cli(Command).run()
