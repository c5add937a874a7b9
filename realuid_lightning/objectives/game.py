"""One batch in front of both players: every network is evaluated once at a point."""

from collections.abc import Iterable
from functools import cached_property
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from realuid_lightning.conditions import Condition, joined
from realuid_lightning.data import Draws
from realuid_lightning.guidance import guided
from realuid_lightning.paths import MatchingPath, Network

Part = tuple[float, float]
"""Two fractions ``0 <= low < high <= 1`` of a path's time range; 1 is the data end."""

Kind = Literal["teacher", "fake", "logits"]


class Point:
    """A point of the path at which networks are asked; each is a key of its own, whatever its values.

    Attributes:
        x1: The data end that the path leads to, ``(B, *D)``.
        t: Time, ``(B,)``.
        xt: Point on the path, ``(B, *D)``.
        target: Conditional target ``c``, ``(B, *D)``.
    """

    def __init__(self, x1: Tensor, t: Tensor, xt: Tensor, target: Tensor) -> None:
        self.x1, self.t, self.xt, self.target = x1, t, xt, target


@runtime_checkable
class Judge(Protocol):
    """A fake model: called as a network, and with the numbers of first rows to predict for and last rows to judge."""

    def __call__(self, t: Tensor, x: Tensor, y: Condition | None = None, **rows: int) -> Any:
        """Return predictions, and logits where rows are judged; those of rows apart by themselves."""
        ...


class Game:
    """What an objective asks: points of the path, and what teacher, fake model and discriminator say there.

    A network answers once at a point, however often it is asked. ``expect`` says beforehand where answers will be
    wanted: those of one network are then given by one forward, predictions and logits of a point by one encoding. An
    objective that expects nothing gets the same answers, by more forwards.

    Predictions are guided as the draws say, teacher and fake model each by its own scale: everywhere, so that a guided
    fake model also learns through its guidance (SiD-LSG, arXiv 2406.01561, where all scales are one). Logits are not.

    Whether an answer carries a graph is torch's to say, as everywhere: under ``torch.no_grad()`` it does not.

    Args:
        path: The framework.
        teacher: Frozen teacher, ``(t, xt, y) -> prediction``.
        fake: Fake model, with a discriminator's head where logits are asked for.
        draws: The batch.
        x1: The generator's samples of it, ``(B, *D)``; with a graph in a generator step.
        step: Generator updates made so far, for what follows a schedule.

    Example:
        >>> from realuid_lightning.networks import MLP
        >>> from realuid_lightning.paths import FlowMatchingPath
        >>> x1, x0, z = torch.ones(3, 4, 2)
        >>> draws = Draws(x1=x1, x0=x0, z=z, t=torch.rand(4))
        >>> game = Game(FlowMatchingPath(), MLP([2]), MLP([2]), draws, x1=2 * z)
        >>> game.fake(game.generated).shape, game.generated.target[0]
        (torch.Size([4, 2]), tensor([1., 1.]))
    """

    def __init__(
        self, path: MatchingPath, teacher: Network, fake: Judge, draws: Draws, x1: Tensor, step: int = 0
    ) -> None:
        self.path, self.draws, self.x1, self.step = path, draws, x1, step
        self._teacher = guided(teacher, draws.guidance, draws.null)
        self._fake = guided(fake, draws.fake_guidance, draws.null)
        self._apart: list[Point] = []
        # What is wanted at each point and what is known there, with a graph (True) and without one.
        self._wanted: dict[bool, dict[Point, set[Kind]]] = {True: {}, False: {}}
        self._known: dict[bool, dict[tuple[Kind, Point], Tensor]] = {True: {}, False: {}}
        self._points: dict[tuple[str, Part | None], Point] = {}

    # ---------------------------------------------------------------------------------------------------- points

    @property
    def generated(self) -> Point:
        """The point towards the generated samples, at the batch's times."""
        return self.generated_at(None)

    @property
    def real(self) -> Point:
        """The point towards the real samples, of the same times and noise.

        Raises:
            ValueError: If the loader gave no real samples.
        """
        return self.real_at(None)

    def generated_at(self, part: Part | None) -> Point:
        """Return the point towards the generated samples at times of its own; the same point for the same part.

        Args:
            part: Where the further draws ``u`` of the batch are spread; None stands for the batch's times.

        Raises:
            ValueError: If the batch has no further draws.
        """
        return self._point("generated", self.x1, part)

    def real_at(self, part: Part | None) -> Point:
        """Return the point towards the real samples at the times of ``generated_at``, with the same noise.

        Raises:
            ValueError: If the batch has no further draws, or the loader gave no real samples.
        """
        if self.draws.x1 is None:
            raise ValueError("the objective compares with real samples: the loader must give x1, got None")
        return self._point("real", self.draws.x1, part)

    def _point(self, whose: str, x1: Tensor, part: Part | None) -> Point:
        if (whose, part) not in self._points:
            sample = self.path.sample(self._times(part), self.draws.x0, x1, self.draws.eps)
            self._points[whose, part] = Point(x1, *sample)
        return self._points[whose, part]

    def _times(self, part: Part | None) -> Tensor:
        if part is None:
            return self.draws.t
        if self.draws.u is None:
            raise ValueError("the objective looks at times of its own: draws must have u, got None")
        (low, high), (start, end) = part, self.path.t_range
        return start + (end - start) * (low + (high - low) * self.draws.u)

    @cached_property
    def weight(self) -> Tensor | None:
        """The path's time weight ``w_t`` at the batch's times, ``(B,)``; None stands for 1."""
        return self.path.weight(self.draws.t)

    @property
    def source(self) -> Tensor | None:
        """Source-domain samples of a translating path, ``(B, *D)``; None where ``x0`` is but noise."""
        return self.draws.x0 if self.path.translates else None

    def denoise(self, point: Point, prediction: Tensor) -> Tensor:
        """Turn a prediction at a point into a guess of ``x1``, ``(B, *D)``."""
        return self.path.denoise(point.t, point.xt, prediction, self.source)

    # --------------------------------------------------------------------------------------------------- answers

    def expect(
        self, *, teacher: Iterable[Point] = (), fake: Iterable[Point] = (), logits: Iterable[Point] = ()
    ) -> None:
        """Say where answers will be wanted, so that the next forward of a network gives all of them.

        Args:
            teacher: Points at which the teacher will be asked.
            fake: Points at which the fake model will be asked.
            logits: Points at which the discriminator will be asked.
        """
        graph = torch.is_grad_enabled()
        asked: dict[Kind, Iterable[Point]] = {"teacher": teacher, "fake": fake, "logits": logits}
        for kind, points in asked.items():
            for point in points:
                if (kind, point) not in self._known[graph]:
                    self._wanted[graph].setdefault(point, set()).add(kind)

    def differentiate(self, point: Point) -> None:
        """Let logits at a point be differentiated by its ``xt``, and so again: say it before they are asked for.

        They get an encoding of their own within the forward: those of other points need not be gone through.
        """
        point.xt.requires_grad_()
        if point not in self._apart:
            self._apart.append(point)

    def teacher(self, point: Point) -> Tensor:
        """Return the teacher's prediction ``f*`` at a point, ``(B, *D)``."""
        return self._answer("teacher", point)

    def fake(self, point: Point) -> Tensor:
        """Return the fake model's prediction ``f`` at a point, ``(B, *D)``."""
        return self._answer("fake", point)

    def logits(self, point: Point) -> Tensor:
        """Return the discriminator's logits at a point, ``(B,)`` or ``(B, K)``; high where samples seem real."""
        return self._answer("logits", point)

    def _answer(self, kind: Kind, point: Point) -> Tensor:
        graph = torch.is_grad_enabled()
        if not graph and (kind, point) in self._known[True]:
            return self._known[True][kind, point].detach()
        if (kind, point) not in self._known[graph]:
            self._wanted[graph].setdefault(point, set()).add(kind)
            self._ask_teacher(graph) if kind == "teacher" else self._ask_fake(graph)
        return self._known[graph][kind, point]

    def _ask_teacher(self, graph: bool) -> None:
        """Call the teacher once, for all points where its answer is wanted."""
        points = [point for point, kinds in self._wanted[graph].items() if "teacher" in kinds]
        t, xt, y, x0 = self._rows(points)
        self._keep("teacher", points, graph, self.path.predict(self._teacher, t, xt, y, x0))

    def _ask_fake(self, graph: bool) -> None:
        """Call the fake model once, for all points where its predictions or its head's logits are wanted."""
        wanted = {point: kinds - {"teacher"} for point, kinds in self._wanted[graph].items() if kinds - {"teacher"}}
        apart = [point for point in self._apart if "logits" in wanted.get(point, ())]
        joint = {point: kinds - {"logits"} if point in apart else kinds for point, kinds in wanted.items()}
        # Rows to predict for come first, those to judge next, with rows for both where these overlap; last those apart.
        points = sorted(joint, key=lambda point: ("logits" in joint[point]) + ("fake" not in joint[point]))
        predicted, judged = ([point for point in points if kind in joint[point]] for kind in ("fake", "logits"))
        t, xt, y, x0 = self._rows([*(point for point in points if joint[point]), *apart])
        if not judged and not apart:
            self._keep("fake", predicted, graph, self.path.predict(self._fake, t, xt, y, x0))
            return
        time, place = self.path.inputs(t, xt, x0)
        rows = {"predicted": len(predicted) * self.draws.size, "judged": len(judged + apart) * self.draws.size}
        if apart:
            rows["apart"] = len(apart) * self.draws.size
        raw, *logits = self._fake(time, place, y, **rows)
        if predicted:
            first = slice(rows["predicted"])
            self._keep("fake", predicted, graph, self.path.output(t[first], xt[first], raw))
        for kept, answers in zip((judged, apart), logits, strict=False):
            if kept:
                self._keep("logits", kept, graph, answers)

    def _rows(self, points: list[Point]) -> tuple[Tensor, Tensor, Condition | None, Tensor | None]:
        """Return times, places, conditions and sources of several points, one after the other."""
        if len(points) == 1:
            return points[0].t, points[0].xt, self.draws.y, self.source
        t, xt = (torch.cat(parts) for parts in zip(*((point.t, point.xt) for point in points), strict=True))
        x0 = None if self.source is None else torch.cat([self.source] * len(points))
        return t, xt, joined([self.draws.y] * len(points)), x0

    def _keep(self, kind: Kind, points: list[Point], graph: bool, answers: Tensor) -> None:
        for point, answer in zip(points, answers.chunk(len(points)), strict=True):
            self._known[graph][kind, point] = answer
            self._wanted[graph][point].discard(kind)
