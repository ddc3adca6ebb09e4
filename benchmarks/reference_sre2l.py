"""SRe2L's four loops (Yin et al., NeurIPS 2023; github.com/VILA-Lab/SRe2L) as plain as its authors run them: what ours
are timed against. Written from the paper and from what its code does, in our words; nothing here is tuned.

    base = squeeze(model, pictures, labels, …)
    images = recover(base, labels, …)            # or Recovery(…).step(), one step
    relabel([base], pictures, folder, …)
    student = train_student(model, pictures, folder, …)

What is plain, and in which of its files:

squeeze  (torchvision's training script) float32; each image is cropped, mirrored and normalised by torchvision, one at
         a time, in a DataLoader.
recover  (recover/data_synthesis.py, recover/utils.py) a float32 model in evaluation mode; a hook on every BatchNorm
         copies its input (permute, contiguous, view) for the variance; one crop for the batch; image priors computed
         each step though their weight is 0; ``loss.item()`` each step, to keep a best image that nobody reads; Adam.
relabel  (relabel/generate_soft_label.py, after FKD) torchvision crops an image at a time; CutMix of the batch; logits
         to fp16; a pickled file a batch with coordinates, flips, partners, lambda, box and logits.
student  (train/train_FKD.py) reads those files back, redoes the crops one image at a time; AdamW, KL divergence.

Kinder to it than its own code: images lie decoded in memory (there: JPEG files), hooks and teacher are set up once
(there: anew for every IPC number), several teachers may label (there: one; the mean of logits is its successors').
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.transforms import functional as pictures_to
from torchvision.transforms.functional import InterpolationMode

Numbers = tuple[float, float, float]


@dataclass(frozen=True)
class Look:
    """How a model sees a picture: the side in pixels, and the mean and standard deviation of each channel."""

    size: int
    mean: Numbers
    std: Numbers

    def whole(self) -> Callable[[Any], Tensor]:
        return transforms.Compose([transforms.ToTensor(), transforms.Normalize(self.mean, self.std)])

    def augmented(self, crop_scale: float) -> Callable[[Any], Tensor]:
        crop = transforms.RandomResizedCrop(self.size, scale=(crop_scale, 1.0))
        return transforms.Compose([crop, transforms.RandomHorizontalFlip(), self.whole()])


class Pictures(Dataset[tuple[Tensor, int]]):
    """Decoded pictures (of PIL) with a transform for each."""

    def __init__(self, pictures: Sequence[Any], labels: Sequence[int], transform: Callable[[Any], Tensor]) -> None:
        self.pictures, self.labels, self.transform = pictures, labels, transform

    def __len__(self) -> int:
        """The number of pictures."""
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """The transformed picture and its class."""
        return self.transform(self.pictures[index]), self.labels[index]


def decoded(images_N3HW: Tensor) -> list[Any]:
    """uint8 images as the pictures that the loops take."""
    return [pictures_to.to_pil_image(image) for image in images_N3HW]


# --- squeeze


def squeeze(
    model: nn.Module,
    pictures: Sequence[Any],
    labels: Sequence[int],
    *,
    look: Look,
    epochs: int,
    lr: float,
    batch_size: int,
    weight_decay: float,
    crop_scale: float,
    seed: int,
    device: torch.device,
    label_smoothing: float = 0.0,
    loaders: int = 0,
) -> nn.Module:
    """The base model: SGD with momentum, cosine by epoch."""
    torch.manual_seed(seed)
    data = Pictures(pictures, labels, look.augmented(crop_scale))
    loader = DataLoader(data, batch_size, shuffle=True, drop_last=True, num_workers=loaders, pin_memory=_pin(device))
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    criterion = nn.CrossEntropyLoss(label_smoothing=label_smoothing)
    model.to(device)
    for _ in range(epochs):
        model.train()
        for images, targets in loader:
            loss = criterion(model(images.to(device)), targets.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()
        schedule.step()
    return model


# --- recover


@dataclass(frozen=True, kw_only=True)
class RecoverSettings:
    """SRe2L's values on Tiny-ImageNet."""

    iterations: int = 4000
    lr: float = 0.1
    r_bn: float = 1.0
    first_bn_multiplier: float = 10.0
    jitter: int = 4
    crop_scale: float = 0.08
    tv_l1: float = 0.0
    tv_l2: float = 0.0
    l2: float = 0.0


class BatchNormHook:
    """How far a BatchNorm's input is from what the layer remembers."""

    def __init__(self, layer: nn.Module) -> None:
        self.distance = torch.zeros(())
        self.handle = layer.register_forward_hook(self._look)

    def _look(self, layer: Any, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        x_BCHW = inputs[0]
        channels = x_BCHW.shape[1]
        mean = x_BCHW.mean([0, 2, 3])
        var = x_BCHW.permute(1, 0, 2, 3).contiguous().view(channels, -1).var(1, unbiased=False)
        self.distance = torch.norm(layer.running_var - var, 2) + torch.norm(layer.running_mean - mean, 2)


class Recovery:
    """A batch of images being recovered from a model; ``x`` is normalised."""

    def __init__(self, model: nn.Module, labels_B: Tensor, *, look: Look, settings: RecoverSettings, seed: int) -> None:
        torch.manual_seed(seed)
        self.model = model.eval()
        for parameter in model.parameters():
            parameter.requires_grad = False
        self.hooks = [BatchNormHook(layer) for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
        self.labels, self.look, self.settings = labels_B, look, settings
        shape = (len(labels_B), 3, look.size, look.size)
        self.x = torch.randn(shape, device=labels_B.device).requires_grad_(True)
        self.optimizer = torch.optim.Adam([self.x], lr=settings.lr, betas=(0.5, 0.9), eps=1e-8)
        self.augment = transforms.Compose(
            [
                transforms.RandomResizedCrop(look.size, scale=(settings.crop_scale, 1.0)),
                transforms.RandomHorizontalFlip(),
            ]
        )
        self.iteration = 0
        self.best, self.best_loss = self.x.detach().clone(), math.inf

    def step(self) -> float:
        """One iteration; returns its loss."""
        settings = self.settings
        for group in self.optimizer.param_groups:
            group["lr"] = 0.5 * settings.lr * (1 + math.cos(math.pi * self.iteration / settings.iterations))
        self.optimizer.zero_grad()
        seen = self.augment(self.x)
        down, right = torch.randint(-settings.jitter, settings.jitter + 1, (2,)).tolist()
        seen = torch.roll(seen, shifts=(down, right), dims=(2, 3))
        loss = functional.cross_entropy(self.model(seen), self.labels)
        scales = [settings.first_bn_multiplier] + [1.0] * (len(self.hooks) - 1)
        apart = sum(scale * hook.distance for scale, hook in zip(scales, self.hooks, strict=True))
        tv_l1, tv_l2 = image_priors(seen)
        l2 = torch.norm(seen.reshape(len(seen), -1), dim=1).mean()
        loss = loss + settings.r_bn * apart + settings.tv_l1 * tv_l1 + settings.tv_l2 * tv_l2 + settings.l2 * l2
        loss.backward()
        self.optimizer.step()
        self._clip()
        if loss.item() < self.best_loss or self.iteration == 0:
            self.best_loss, self.best = loss.item(), self.x.detach().clone()
        self.iteration += 1
        return loss.item()

    def close(self) -> None:
        """Leave the model without hooks."""
        for hook in self.hooks:
            hook.handle.remove()

    def _clip(self) -> None:
        for channel, (mean, std) in enumerate(zip(self.look.mean, self.look.std, strict=True)):
            self.x.data[:, channel] = torch.clamp(self.x.data[:, channel], -mean / std, (1 - mean) / std)


def image_priors(x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Total variation in four directions: sum of absolute means, sum of norms (DeepInversion's priors)."""
    across = x_BCHW[:, :, :, :-1] - x_BCHW[:, :, :, 1:]
    down = x_BCHW[:, :, :-1, :] - x_BCHW[:, :, 1:, :]
    falling = x_BCHW[:, :, 1:, :-1] - x_BCHW[:, :, :-1, 1:]
    rising = x_BCHW[:, :, :-1, :-1] - x_BCHW[:, :, 1:, 1:]
    directions = (across, down, falling, rising)
    l1 = sum((d.abs() / 255.0).mean() for d in directions) * 255.0
    l2 = sum(torch.norm(d) for d in directions)
    return torch.as_tensor(l1), torch.as_tensor(l2)


def recover(model: nn.Module, labels_B: Tensor, *, look: Look, settings: RecoverSettings, seed: int) -> Tensor:
    """The last iterate as uint8 (B, 3, H, W); like the original, cut off and not rounded."""
    recovery = Recovery(model, labels_B, look=look, settings=settings, seed=seed)
    for _ in range(settings.iterations):
        recovery.step()
    recovery.close()
    mean, std = (torch.tensor(n, device=labels_B.device).view(1, 3, 1, 1) for n in (look.mean, look.std))
    return ((recovery.x.detach() * std + mean) * 255).clamp(0, 255).to(torch.uint8).cpu()


# --- relabel


@torch.no_grad()
def relabel(
    teachers: Sequence[nn.Module],
    pictures: Sequence[Any],
    folder: Path,
    *,
    look: Look,
    epochs: int,
    batch_size: int,
    crop_scale: float,
    seed: int,
    device: torch.device,
) -> None:
    """``epochs`` looks at every picture, a file a batch: ``folder/epoch-E/batch-B.pt``."""
    torch.manual_seed(seed)
    for teacher in teachers:
        teacher.eval()
    for epoch in range(epochs):
        (folder / f"epoch-{epoch}").mkdir(parents=True)
        for number, rows in enumerate(_batches(len(pictures), batch_size, seed, epoch)):
            boxes = [transforms.RandomResizedCrop.get_params(pictures[row], [crop_scale, 1.0], [3 / 4, 4 / 3])
                     for row in rows]  # fmt: skip
            flips = [bool(torch.rand(()) < 0.5) for _ in rows]
            seen = _seen(pictures, rows, boxes, flips, look).to(device)
            partners, lam, box = cutmix_of(len(rows), look.size)
            seen = cutmix(seen, partners, box)
            logits = torch.stack([teacher(seen) for teacher in teachers]).mean(0).half().cpu()
            saved = [boxes, flips, partners, lam, box, logits]
            torch.save(saved, folder / f"epoch-{epoch}" / f"batch-{number}.pt")


def cutmix_of(count: int, size: int) -> tuple[Tensor, float, tuple[int, int, int, int]]:
    """Partners, lambda (uniform: Beta(1, 1)) and the box (top, left, bottom, right) in pixels."""
    lam, top, left = torch.rand(3).tolist()
    side = size * math.sqrt(1 - lam)
    top, left = size * top, size * left
    edges = (top - side / 2, left - side / 2, top + side / 2, left + side / 2)
    box = tuple(min(max(int(edge), 0), size) for edge in edges)
    return torch.randperm(count), lam, box  # type: ignore[return-value]


def cutmix(images_BCHW: Tensor, partners_B: Tensor, box: tuple[int, int, int, int]) -> Tensor:
    """Every image with its partner's pixels inside the batch's one box."""
    top, left, bottom, right = box
    images_BCHW[:, :, top:bottom, left:right] = images_BCHW[partners_B, :, top:bottom, left:right]
    return images_BCHW


def _seen(
    pictures: Sequence[Any], rows: Sequence[int], boxes: Sequence[Any], flips: Sequence[bool], look: Look
) -> Tensor:
    """The pictures through their crops, one at a time."""
    whole, size, seen = look.whole(), [look.size, look.size], []
    for row, box, flip in zip(rows, boxes, flips, strict=True):
        view = pictures_to.resized_crop(pictures[row], *box, size, InterpolationMode.BILINEAR)
        seen.append(whole(pictures_to.hflip(view) if flip else view))
    return torch.stack(seen)


def _batches(count: int, batch_size: int, seed: int, epoch: int) -> Iterator[list[int]]:
    """The same batches of rows for whoever labels and whoever trains."""
    generator = torch.Generator().manual_seed(seed * 100_003 + epoch)
    for rows in torch.randperm(count, generator=generator).split(batch_size):
        yield rows.tolist()


# --- student


def train_student(
    model: nn.Module,
    pictures: Sequence[Any],
    folder: Path,
    *,
    look: Look,
    epochs: int,
    batch_size: int,
    lr: float,
    weight_decay: float,
    temperature: float,
    seed: int,
    label_seed: int,
    device: torch.device,
) -> nn.Module:
    """A student on the labels in ``folder``; epoch e takes the labels of epoch e modulo those that there are."""
    torch.manual_seed(seed)
    labelled = len(list(folder.iterdir()))
    steps = epochs * math.ceil(len(pictures) / batch_size)
    model.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / steps)))
    divergence = nn.KLDivLoss(reduction="batchmean")
    model.train()
    for epoch in range(epochs):
        kept = epoch % labelled
        for number, rows in enumerate(_batches(len(pictures), batch_size, label_seed, kept)):
            # weights_only: our own file, but a pickle is a pickle; the original loads it without.
            saved = torch.load(folder / f"epoch-{kept}" / f"batch-{number}.pt", weights_only=True)
            boxes, flips, partners, _, box, logits = saved
            seen = cutmix(_seen(pictures, rows, boxes, flips, look).to(device), partners, box)
            targets = functional.softmax(logits.to(device).float() / temperature, dim=1)
            loss = divergence(functional.log_softmax(model(seen) / temperature, dim=1), targets) * temperature**2
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            loss.item()
    return model


@torch.no_grad()
def accuracy(
    model: nn.Module, pictures: Sequence[Any], labels: Sequence[int], *, look: Look, device: torch.device
) -> float:
    """Top-1 in percent."""
    model.eval()
    right = 0
    for images, targets in DataLoader(Pictures(pictures, labels, look.whole()), 250):
        right += int((model(images.to(device)).argmax(1).cpu() == targets).sum())
    return 100.0 * right / len(labels)


def _pin(device: torch.device) -> bool:
    return device.type == "cuda"
