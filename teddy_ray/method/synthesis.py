"""Algorithm 1's while loop, on one unit: a batch of synthetic images, optimised until the models of the pool find in it
what they remember of the real data.

    work = Synthesis(start, labels, images=ids, teachers=pool, settings=…, pixels=…, flip=…, seed=(0, "c000-s000"))
    while work.iteration < settings.iterations:
        work.step()

Everything that is drawn comes from (seed, unit, iteration) or (seed, image, iteration); ``state()`` holds the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from teddy_ray.method import views
from teddy_ray.method.compiling import compiled
from teddy_ray.method.matching import Loss, Teacher, Weights, eq7
from teddy_ray.method.optimisation import cosine, precision
from teddy_ray.method.pixels import Pixels
from teddy_ray.method.randomness import permutation


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The loop's hyper-parameters; spec.DistillSpec says what each is."""

    iterations: int
    models_per_step: int
    optimizer: str
    lr: float
    betas: tuple[float, float]
    weights: Weights
    crop_scale: float
    shared_crop: bool
    bfloat16: bool
    compiled: bool = False


class Synthesis:
    """One unit being optimised: ``x`` (B, 3, H, W) is normalised and stays in the range of real pixels.

    ``images_B``, the images' numbers in the synthetic set, stays on the CPU, where geometries are drawn.
    """

    def __init__(
        self,
        start_BCHW: Tensor,
        labels_B: Tensor,
        *,
        images_B: Tensor,
        teachers: Sequence[Teacher],
        settings: Settings,
        pixels: Pixels,
        flip: bool,
        seed: int,
        unit: str,
    ) -> None:
        self.x = start_BCHW.detach().clone(memory_format=torch.channels_last).requires_grad_(True)
        self.labels, self.images, self.teachers = labels_B, images_B, teachers
        self.settings, self.flip, self.seed, self.unit = settings, flip, seed, unit
        self.iteration = 0
        self._eq7 = compiled(eq7) if settings.compiled else eq7
        self._black, self._white = pixels.bounds(start_BCHW.device)
        self._optimizer: torch.optim.Optimizer = (
            torch.optim.Adam([self.x], lr=settings.lr, betas=settings.betas, eps=1e-8)
            if settings.optimizer == "adam"
            else torch.optim.SGD([self.x], lr=settings.lr, momentum=settings.betas[0])
        )

    def step(self) -> Loss:
        """One iteration. The loss stays on the device: reading it waits for the device, so read it rarely."""
        view = self._view()
        seen = view.detach().requires_grad_(True)
        losses = [self._backward(teacher, seen) for teacher in self._draw_teachers()]
        self._optimizer.zero_grad(set_to_none=True)
        view.backward(seen.grad)
        for group in self._optimizer.param_groups:
            group["lr"] = cosine(self.settings.lr, self.iteration, self.settings.iterations)
        self._optimizer.step()
        with torch.no_grad():
            self.x.clamp_(self._black, self._white)
        self.iteration += 1
        return Loss(*(torch.stack(parts).mean() for parts in zip(*losses, strict=True)))

    def state(self) -> dict[str, Tensor]:
        """All that the next step depends on, as tensors on the CPU."""
        moments = {
            name: value for name, value in self._optimizer.state.get(self.x, {}).items() if isinstance(value, Tensor)
        }
        state = {"x": self.x.detach(), "iteration": torch.tensor(self.iteration), **moments}
        return {name: value.cpu().clone(memory_format=torch.contiguous_format) for name, value in state.items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on exactly where ``state`` was taken."""
        rest = dict(state)
        self.iteration = int(rest.pop("iteration"))
        with torch.no_grad():
            self.x.copy_(rest.pop("x"))
        if rest:
            self._optimizer.state[self.x] = {name: self._like_x(value) for name, value in rest.items()}

    def _like_x(self, value: Tensor) -> Tensor:
        """A moment in x's place and memory order; Adam's step count is a scalar and stays as it is."""
        if value.ndim == 0:
            return value.clone()
        return value.to(self.x.device).clone(memory_format=torch.channels_last)

    def _view(self) -> Tensor:
        """This iteration's look at the images: a crop and a mirror for each, or one for all as SRe2L's code does."""
        of = self.images[:1].expand_as(self.images) if self.settings.shared_crop else self.images
        geometry = views.draw(
            self.seed,
            of,
            torch.full_like(of, self.iteration + 1),
            crop_scale=self.settings.crop_scale,
            flip=self.flip,
            cutmix=False,
            images=len(of),
        )
        return views.crop(self.x, geometry.to(self.x.device))

    def _draw_teachers(self) -> list[Teacher]:
        """n of the pool, without replacement."""
        order = permutation(len(self.teachers), self.seed, "teachers", self.unit, self.iteration)
        return [self.teachers[index] for index in order[: self.settings.models_per_step].tolist()]

    def _backward(self, teacher: Teacher, seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Add one teacher's share of the gradient to ``seen.grad``. One at a time: memory does not grow with n."""
        settings = self.settings
        with precision(seen.device, bfloat16=settings.bfloat16):
            loss = self._eq7(teacher, seen, self.labels, settings.weights)
        # The mean over the n models, so that neither lr nor weights depend on n.
        (loss.total / settings.models_per_step).backward()
        return loss.total.detach(), loss.statistics.detach(), loss.classification.detach()
