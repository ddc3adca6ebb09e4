"""Training: the base model (and a member's fine-tuning) on real images, and students on a labelled image set.

    trainer = Trainer(model, recipe, steps_per_epoch=…)
    for epoch in range(recipe.epochs):
        loss = trainer.epoch(real_batches(…, epoch=epoch))
    accuracy(model, test_images, test_labels)

A trainer takes batches of (views, targets, weight of softness) and knows nothing of where they come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional

from teddy_ray.method import views
from teddy_ray.method.optimisation import cosine, precision
from teddy_ray.method.pixels import Pixels
from teddy_ray.method.randomness import permutation
from teddy_ray.method.views import Geometry

Batch = tuple[Tensor, Tensor]
"""Normalised images (B, 3, H, W), and target probabilities (B, K) at the recipe's temperature."""


@dataclass(frozen=True, kw_only=True)
class TrainingRecipe:
    """How a model is trained; the spec says what each number is."""

    epochs: float
    optimizer: str
    lr: float
    weight_decay: float
    bfloat16: bool
    warmup_epochs: float = 0.0
    lr_end: float = 0.0
    label_smoothing: float = 0.0
    temperature: float = 1.0


class Trainer:
    """A model, its optimiser and where they are: ``state()`` and ``load_state()`` resume to the bit."""

    def __init__(self, model: nn.Module, recipe: TrainingRecipe, *, steps_per_epoch: int) -> None:
        self.model, self.recipe, self.steps_per_epoch = model, recipe, steps_per_epoch
        self.step = 0
        self.optimizer = _optimizer(model, recipe)

    def epoch(self, batches: Iterable[Batch]) -> float:
        """One pass; returns the mean training loss."""
        self.model.train()
        losses = [self._step(images, targets) for images, targets in batches]
        return float(torch.stack(losses).mean())

    def state(self) -> dict[str, Tensor]:
        """The optimiser's tensors and the step, on the CPU; the model's own state_dict is apart."""
        flat = {"step": torch.tensor(self.step)}
        for index, slots in self.optimizer.state_dict()["state"].items():
            flat |= {f"{index}.{name}": value.cpu().clone() for name, value in slots.items() if value is not None}
        return flat

    def load_state(self, flat: dict[str, Tensor]) -> None:
        """Take up the optimiser where ``state()`` left it."""
        slots: dict[int, dict[str, Tensor]] = {}
        for key, value in flat.items():
            if key != "step":
                index, name = key.split(".", 1)
                slots.setdefault(int(index), {})[name] = value.clone()
        self.step = int(flat["step"])
        self.optimizer.load_state_dict({"state": slots, "param_groups": self.optimizer.state_dict()["param_groups"]})

    def _step(self, images_BCHW: Tensor, targets_BK: Tensor) -> Tensor:
        recipe = self.recipe
        per_epoch = self.steps_per_epoch
        lr = cosine(
            recipe.lr, self.step, recipe.epochs * per_epoch, warmup=recipe.warmup_epochs * per_epoch, end=recipe.lr_end
        )
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        with precision(images_BCHW.device, bfloat16=recipe.bfloat16):
            logits = self.model(images_BCHW)
        loss = soft_cross_entropy(logits.float(), targets_BK, recipe)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.step += 1
        return loss.detach()


def soft_cross_entropy(logits_BK: Tensor, targets_BK: Tensor, recipe: TrainingRecipe) -> Tensor:
    """T² · KL(targets ‖ softmax(logits / T)) (Hinton et al. 2015); with T = 1 and hard targets, cross-entropy."""
    temperature = recipe.temperature
    log_probs = (logits_BK / temperature).log_softmax(dim=-1)
    if recipe.label_smoothing:
        targets_BK = torch.lerp(
            targets_BK, torch.full_like(targets_BK, 1 / targets_BK.shape[1]), recipe.label_smoothing
        )
    return functional.kl_div(log_probs, targets_BK, reduction="batchmean") * temperature**2


def real_batches(
    images_N3HW: Tensor,
    labels_N: Tensor,
    *,
    classes: int,
    batch_size: int,
    epoch: int,
    crop_scale: float,
    flip: bool,
    pixels: Pixels,
    seed: int,
    device: torch.device,
    rank: int = 0,
    replicas: int = 1,
) -> Iterator[Batch]:
    """One epoch of real images, each through this epoch's view of it; ``rank`` takes its slice of every batch.

    The last, incomplete batch is left out, unless it is the only one: BatchNorm wants full ones.
    """
    order = permutation(len(labels_N), seed, "order", epoch)
    size = min(batch_size, len(order))
    for start in range(0, len(order) - size + 1, size):
        rows = order[start : start + size][rank::replicas]
        geometry = views.draw(
            seed,
            rows,
            torch.full_like(rows, epoch + 1),
            crop_scale=crop_scale,
            flip=flip,
            cutmix=False,
            images=len(order),
        )
        images = pixels.normalise(images_N3HW[rows].to(device))
        targets = functional.one_hot(labels_N[rows].to(device), classes).float()
        yield views.crop(images, geometry.to(device)), targets


Answers = Callable[[int, Tensor, Tensor], Tensor]
"""The labellers' logits (B, K), float32, for a view's number, images (B,), and how they look in it (B, 3, H, W)."""


@dataclass(frozen=True, kw_only=True)
class LabelledViews:
    """An image set with soft labels, on the device that trains; V + 1 views an image, view 0 being the whole image.

    images: uint8 (N, 3, H, W), which ``pixels`` normalise. labels: (N,) of ``classes`` classes. geometry: of all images
    (N,), for a view's number. answers: read from what is stored, or asked for there and then. mirror: views that come
    round again are mirrored every second time, with the answer for the view itself where it is stored.
    """

    images: Tensor
    pixels: Pixels
    labels: Tensor
    classes: int
    views: int
    geometry: Callable[[int], Geometry]
    answers: Answers
    mirror: bool = False

    def batches(self, *, regime: str, epoch: int, batch_size: int, temperature: float, seed: int) -> Iterator[Batch]:
        """One epoch: each image through one view, with the regime's targets (B, K).

        views: the labellers' answer for that very view. fixed: their answers for the whole images that it shows, mixed
        by area. hard: the classes, mixed by area. The first V epochs show the same in all three; then the views come
        round again where each has an answer of its own, and go on where none is asked for.
        """
        count = len(self.images)
        around = self.views if regime == "views" else epoch + 1
        view, mirrored = views.of_epoch(epoch, around, mirror=self.mirror)
        geometry = self.geometry(view)
        order = permutation(count, seed, "order", epoch).to(self.images.device)
        whole_NK = None if regime == "views" else self._whole(regime, temperature)
        # Batches of nearly one size: a last batch of a single image would have no variance for BatchNorm.
        for image in order.tensor_split(-(-count // batch_size)):
            own = geometry[image]
            shown, kept_B = views.render(self._seen(image), self._seen(own.partner), own, geometry[own.partner])
            shown = shown.flip(3) if mirrored else shown
            if whole_NK is None:
                yield shown, (self.answers(view, image, shown) / temperature).softmax(dim=-1)
            else:
                yield shown, torch.lerp(whole_NK[own.partner], whole_NK[image], kept_B[:, None])

    def _seen(self, image: Tensor) -> Tensor:
        return self.pixels.normalise(self.images[image])

    def _whole(self, regime: str, temperature: float) -> Tensor:
        """Every whole image's target (N, K): its class, or the labellers' answer for view 0."""
        if regime == "hard":
            return functional.one_hot(self.labels, self.classes).float()
        return (self._whole_answers / temperature).softmax(dim=-1)

    @cached_property
    def _whole_answers(self) -> Tensor:
        """The labellers' logits (N, K) for view 0."""
        geometry = self.geometry(views.WHOLE)
        return torch.cat(
            [
                self.answers(views.WHOLE, image, views.crop(self._seen(image), geometry[image]))
                for image in torch.arange(len(self.images), device=self.images.device).split(250)
            ]
        )


AT_ONCE = 100
"""Images scored in one pass. 500 take 5 times the memory (3 GB of a ConvNet at 64x64 in float32), and no less time."""


@torch.no_grad()
def logits_of(model: nn.Module, images_N3HW: Tensor, *, pixels: Pixels, bfloat16: bool, device: torch.device) -> Tensor:
    """Logits (N, K), float32 on the CPU, of whole images given as uint8."""
    model.eval()
    parts = []
    for images in images_N3HW.split(AT_ONCE):
        with precision(device, bfloat16=bfloat16):
            parts.append(model(pixels.normalise(images.to(device))).float().cpu())
    return torch.cat(parts)


def accuracy(logits_NK: Tensor, labels_N: Tensor) -> float:
    """Top-1 accuracy in percentage points."""
    return 100.0 * float((logits_NK.argmax(dim=1) == labels_N).double().mean())


def _optimizer(model: nn.Module, recipe: TrainingRecipe) -> torch.optim.Optimizer:
    """Weight decay on matrices only: it would pull BatchNorm's gains and every bias to zero for no reason."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=recipe.lr)
