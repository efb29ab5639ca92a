"""Turns masks into coloured, distorted training pictures, a batch at a time.

Everything runs in torch on the training device. Each step works on masks in
[0, 1] of shape (n, 1, height, width); colour comes last.
"""

import torch
from torch.nn import functional

from cafe.mini.vocabulary import COLOUR_NAMES, COLOURS, KINDS

IMAGE_SIZE = 32
WORK_SIZE = 36
_RESOLUTIONS = (6, 7, 8, 8, 8, 8, 10, 12, 16, IMAGE_SIZE, IMAGE_SIZE)


def uniform(shape: tuple[int, ...], low: float, high: float, like: torch.Tensor) -> torch.Tensor:
    """Return uniform random numbers on the device of another tensor."""
    return torch.rand(shape, device=like.device) * (high - low) + low


def distort(masks: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """Apply random affine, perspective and elastic distortion.

    Parameters
    ----------
    masks : torch.Tensor
        Shape (n, 1, size, size).
    strength : torch.Tensor
        Per mask, how much of the usual distortion to apply, shape (n,).

    Returns
    -------
    torch.Tensor
        Distorted masks of shape (n, 1, 36, 36).
    """
    n, size = len(masks), WORK_SIZE
    amount = strength[:, None]
    angle = amount * uniform((n, 1), -0.22, 0.22, masks)
    shear = amount * uniform((n, 1), -0.25, 0.25, masks)
    tilt = amount[..., None] * uniform((n, 1, 2), -0.12, 0.12, masks)
    axis = torch.linspace(-1, 1, size, device=masks.device)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    x, y = x.reshape(1, -1), y.reshape(1, -1)
    turned_x = x * angle.cos() - y * angle.sin() + shear * y
    turned_y = x * angle.sin() + y * angle.cos()
    points = torch.stack([turned_x, turned_y], dim=-1)
    depth = 1 + (points * tilt).sum(dim=-1, keepdim=True)
    points = (points / depth).reshape(n, size, size, 2)
    coarse = torch.randn(n, 2, 5, 5, device=masks.device)
    coarse = coarse * (amount * uniform((n, 1), 0.0, 0.11, masks))[..., None, None]
    bend = functional.interpolate(coarse, size=(size, size), mode="bilinear", align_corners=True)
    points = points + bend.permute(0, 2, 3, 1)
    return functional.grid_sample(masks, points, align_corners=False)


def change_thickness(masks: torch.Tensor, amount: torch.Tensor) -> torch.Tensor:
    """Thicken (amount above 0) or thin (below 0) the ink by up to a pixel."""
    amount = amount[:, None, None, None]
    # Thinning the ink is thickening the ground, so one pooling serves both.
    sign = torch.where(amount > 0, 1.0, -1.0)
    target = sign * functional.max_pool2d(sign * masks, 3, stride=1, padding=1)
    return masks + (target - masks) * amount.abs()


def ink_boxes(masks: torch.Tensor) -> torch.Tensor:
    """Return each mask's ink bounding box as (left, top, right, bottom).

    The numbers are pixel edges; a mask without ink gets the whole frame.
    """
    size = masks.shape[-1]
    ink = masks[:, 0] > 0.35
    sides = []
    for dim in (1, 2):
        line = ink.any(dim=dim)
        first = line.float().argmax(dim=1)
        last = size - line.flip(1).float().argmax(dim=1)
        sides.append((first, last))
    (left, right), (top, bottom) = sides
    return torch.stack([left, top, right, bottom], dim=1).float()


def reframe(masks: torch.Tensor, tight: torch.Tensor) -> torch.Tensor:
    """Frame each mask anew: cut to its ink where `tight`, else scaled and moved at random.

    A tight cut stretches the ink to the full height and a random width, as
    data sets of normalised handwriting have it; the ink is also moved a
    little.

    Parameters
    ----------
    masks : torch.Tensor
        Shape (n, 1, size, size).
    tight : torch.Tensor
        Whether to cut each mask to its ink, bool of shape (n,).

    Returns
    -------
    torch.Tensor
        Masks of shape (n, 1, 32, 32).
    """
    n, size = len(masks), masks.shape[-1]
    boxes = ink_boxes(masks) / size * 2 - 1
    low, high = boxes[:, :2], boxes[:, 2:]
    middle, half = (low + high) / 2, (high - low) / 2
    natural = half[:, :1] / half[:, 1:]
    spread = uniform((n, 1), 0.75, 1.35, masks)
    wide = (natural * spread).clamp(0.22, 1.0)
    fill = torch.cat([wide, torch.ones_like(wide)], dim=1)
    fill = fill * uniform((n, 2), 0.92, 1.04, masks)
    nudge = uniform((n, 2), -0.08, 0.08, masks)
    tight_scale = half / fill
    tight_shift = middle + nudge * tight_scale
    loose_scale = uniform((n, 1), 0.8, 1.5, masks) * uniform((n, 2), 0.9, 1.1, masks)
    margin = (loose_scale - 1).abs() + 0.1
    loose_shift = margin * uniform((n, 2), -0.8, 0.8, masks)
    chosen = tight[:, None]
    scale = torch.where(chosen, tight_scale, loose_scale)
    shift = torch.where(chosen, tight_shift, loose_shift)
    theta = torch.zeros(n, 2, 3, device=masks.device)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = scale[:, 0], scale[:, 1], shift
    grid = functional.affine_grid(theta, [n, 1, IMAGE_SIZE, IMAGE_SIZE], align_corners=False)
    return functional.grid_sample(masks, grid, align_corners=False)


def restore_contrast(masks: torch.Tensor) -> torch.Tensor:
    """Brighten a random part of the masks so that their darkest ink is full."""
    peak = masks.amax(dim=(1, 2, 3), keepdim=True).clamp(min=0.2)
    chosen = torch.rand_like(peak) < 0.6
    return torch.where(chosen, masks / peak, masks)


def lower_resolution(masks: torch.Tensor) -> torch.Tensor:
    """Reduce to a random tiny size by box averages and enlarge again.

    Some masks are first made black and white, as scanned forms are. The
    enlargement is bicubic with the same kernel that Pillow uses.
    """
    sharp = torch.rand(len(masks), 1, 1, 1, device=masks.device) < 0.5
    masks = torch.where(sharp, ((masks - 0.5) * 8 + 0.5).clamp(0, 1), masks)
    result = masks.new_empty(len(masks), 1, IMAGE_SIZE, IMAGE_SIZE)
    choice = torch.randint(len(_RESOLUTIONS), (len(masks),), device=masks.device)
    for resolution in sorted(set(_RESOLUTIONS)):
        same = [i for i, r in enumerate(_RESOLUTIONS) if r == resolution]
        chosen = torch.isin(choice, torch.tensor(same, device=masks.device))
        if not chosen.any():
            continue
        small = functional.interpolate(masks[chosen], size=(resolution, resolution), mode="area")
        small = restore_contrast(small)
        small = small + 0.04 * torch.rand_like(small[:, :, :1, :1]) * torch.randn_like(small)
        result[chosen] = functional.interpolate(
            small.clamp(0, 1),
            size=(IMAGE_SIZE, IMAGE_SIZE),
            mode="bicubic",
            antialias=True,
        )
    return result.clamp(0, 1)


def colourise(
    masks: torch.Tensor,
    foreground: torch.Tensor,
    background: torch.Tensor,
    difficulty: float = 1.0,
) -> torch.Tensor:
    """Paint ink and ground in slightly varied colours, then blur and add noise."""
    table = torch.tensor([COLOURS[name] for name in COLOUR_NAMES], device=masks.device)
    n = len(masks)
    painted = []
    for codes in (foreground, background):
        colour = table[codes].float() / 255
        # Plain black and white stay exact in part of the pictures.
        amount = uniform((n, 1), 0.0, 0.06, masks) * (torch.rand_like(colour[:, :1]) < 0.7)
        painted.append((colour + amount * torch.randn_like(colour))[..., None, None])
    ink, ground = painted
    images = ground + (ink - ground) * masks
    blurred = functional.avg_pool2d(functional.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    blur = uniform((n, 1, 1, 1), -0.6, 1.0, masks).clamp(min=0) * difficulty
    images = images + (blurred - images) * blur
    noise = uniform((n, 1, 1, 1), -0.06, 0.08, masks).clamp(min=0) * difficulty
    return (images + noise * torch.randn_like(images)).clamp(0, 1)


def make_pictures(masks: torch.Tensor, codes: torch.Tensor, difficulty: float = 1.0) -> torch.Tensor:
    """Turn a batch of bank masks into pictures.

    Parameters
    ----------
    masks : torch.Tensor
        uint8 masks of shape (n, 48, 48).
    codes : torch.Tensor
        All six codes of each picture, shape (n, 6).
    difficulty : float
        Share of the usual distortion, blur and noise, from 0 to 1.

    Returns
    -------
    torch.Tensor
        Pictures in [0, 1] of shape (n, 3, 32, 32).
    """
    kind = codes[:, 0]
    glyph = kind <= KINDS.index("sign")
    texture = kind == KINDS.index("texture")
    strength = torch.where(texture, 0.2, torch.where(glyph, 1.0, 0.5)) * difficulty
    work = distort(masks[:, None].float() / 255, strength)
    work = change_thickness(work, uniform((len(work),), -0.4, 0.9, work))
    tight = glyph & (torch.rand(len(work), device=work.device) < 0.8)
    framed = reframe(work, tight)
    # A texture fills the picture already; bending it would change its class.
    edge = (masks.shape[-1] - IMAGE_SIZE) // 2
    plain = masks[:, None, edge:-edge, edge:-edge].float() / 255
    work = lower_resolution(torch.where(texture[:, None, None, None], plain, framed))
    return colourise(work, codes[:, 4], codes[:, 5], difficulty)
