"""Small networks of kinds that the model libraries lack: recurrent, generative, audio, one-stage detection."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional


def _conv(width_in: int, width: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width_in, width, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(width),
        nn.SiLU(),
    )


class LstmTagger(nn.Module):
    """Embedding, two bidirectional LSTM layers, a linear layer on each step."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(100, 24)
        self.lstm = nn.LSTM(24, 32, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(64, 9)

    def forward(self, ids: Tensor) -> Tensor:
        """Ids [N, T] to scores [N, T, 9]."""
        return self.head(self.lstm(self.embedding(ids))[0])


class GruForecaster(nn.Module):
    """A two-layer GRU whose last step is read."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(5, 32, num_layers=2, batch_first=True)
        self.head = nn.Sequential(nn.Linear(32, 24), nn.Tanh(), nn.Linear(24, 3))

    def forward(self, series: Tensor) -> Tensor:
        """Series [N, T, 5] to a forecast [N, 3]."""
        return self.head(self.gru(series)[0][:, -1])


class Crnn(nn.Module):
    """Text recognition: convolutions, columns as time, a bidirectional LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            _conv(1, 16), nn.MaxPool2d(2), _conv(16, 32), nn.MaxPool2d(2), _conv(32, 48), nn.MaxPool2d((2, 1))
        )
        self.lstm = nn.LSTM(48 * 4, 32, bidirectional=True)
        self.head = nn.Linear(64, 37)

    def forward(self, image: Tensor) -> Tensor:
        """Images [N, 1, 32, W] to scores [W / 4, N, 37]."""
        columns = self.features(image).flatten(1, 2).permute(2, 0, 1)
        return self.head(self.lstm(columns)[0])


class UNet(nn.Module):
    """Three levels, transposed convolutions, skips by concatenation."""

    def __init__(self) -> None:
        super().__init__()
        widths = (16, 32, 64)
        self.down = nn.ModuleList([_conv(3, 16), _conv(16, 32), _conv(32, 64)])
        self.up = nn.ModuleList([nn.ConvTranspose2d(b, a, 2, 2) for a, b in pairwise(widths)])
        self.merge = nn.ModuleList([_conv(2 * a, a) for a in widths[:-1]])
        self.head = nn.Conv2d(16, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Images [N, 3, H, W] to masks [N, 2, H, W]."""
        skips = []
        for level, block in enumerate(self.down):
            image = block(functional.max_pool2d(image, 2) if level else image)
            skips.append(image)
        for level in (1, 0):
            image = self.merge[level](torch.cat([skips[level], self.up[level](image)], 1))
        return self.head(image)


class Espcn(nn.Module):
    """Super-resolution by sub-pixel convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 32, 5, padding=2), nn.Tanh(),
            nn.Conv2d(32, 16 * 4, 3, padding=1), nn.PixelShuffle(2), nn.PReLU(16),
            nn.Conv2d(16, 4, 3, padding=1), nn.PixelShuffle(2),
        )  # fmt: skip

    def forward(self, image: Tensor) -> Tensor:
        """Images [N, 1, H, W] to [N, 1, 4 H, 4 W]."""
        return self.body(image)


class Dcgan(nn.Module):
    """A generator of transposed convolutions."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width_in, width in ((24, 64), (64, 32), (32, 16)):
            stride = 1 if width_in == 24 else 2
            layers += [
                nn.ConvTranspose2d(width_in, width, 4, stride, stride - 1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
        self.body = nn.Sequential(*layers, nn.ConvTranspose2d(16, 3, 4, 2, 1), nn.Tanh())

    def forward(self, noise: Tensor) -> Tensor:
        """Noise [N, 24, 1, 1] to images [N, 3, 32, 32]."""
        return self.body(noise)


class ConvTasNet(nn.Module):
    """Learned filter bank, dilated depthwise blocks with global layer norm, masks."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Conv1d(1, 32, 16, 8, bias=False), nn.ConvTranspose1d(32, 1, 16, 8, bias=False)
        self.enter, self.leave = nn.Conv1d(32, 24, 1), nn.Conv1d(24, 2 * 32, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(24, 48, 1), nn.PReLU(), nn.GroupNorm(1, 48),
                nn.Conv1d(48, 48, 3, padding=2**i, dilation=2**i, groups=48), nn.PReLU(), nn.GroupNorm(1, 48),
                nn.Conv1d(48, 24, 1),
            )
            for i in range(3)
        )  # fmt: skip

    def forward(self, signal: Tensor) -> Tensor:
        """Signals [N, 1, T] to two sources [2 N, 1, T]."""
        coded = self.encoder(signal)
        stream = self.enter(coded)
        for block in self.blocks:
            stream = stream + block(stream)
        masks = torch.sigmoid(self.leave(stream)).reshape(-1, 2, 32, coded.shape[-1])
        return self.decoder((masks * coded[:, None]).flatten(0, 1))


class WaveNet(nn.Module):
    """Gated dilated convolutions with residual and skip paths."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv1d(1, 24, 1)
        self.gates = nn.ModuleList(nn.Conv1d(24, 48, 2, dilation=2**i, padding=2**i) for i in range(4))
        self.residual = nn.ModuleList(nn.Conv1d(24, 24, 1) for _ in range(4))
        self.skip = nn.ModuleList(nn.Conv1d(24, 32, 1) for _ in range(4))
        self.leave = nn.Sequential(nn.ReLU(), nn.Conv1d(32, 32, 1), nn.ReLU(), nn.Conv1d(32, 16, 1))

    def forward(self, signal: Tensor) -> Tensor:
        """Signals [N, 1, 256] to scores [N, 16, 256]."""
        stream, total = self.enter(signal), torch.zeros(())
        for gate, residual, skip in zip(self.gates, self.residual, self.skip, strict=True):
            value, control = gate(stream)[..., : signal.shape[-1]].chunk(2, 1)
            mixed = torch.tanh(value) * torch.sigmoid(control)
            total = total + skip(mixed)
            stream = stream + residual(mixed)
        return self.leave(total)


class Bottleneck(nn.Module):
    """Half of the channels stay, half go through blocks, and all that came out is concatenated (YOLO's C2f)."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        half = width // 2
        self.enter, self.leave = _conv(width, width, 1), _conv((2 + blocks) * half, width, 1)
        self.blocks = nn.ModuleList(nn.Sequential(_conv(half, half), _conv(half, half)) for _ in range(blocks))

    def forward(self, image: Tensor) -> Tensor:
        """Images of one width to images of the same width."""
        parts = list(self.enter(image).chunk(2, 1))
        for block in self.blocks:
            parts.append(parts[-1] + block(parts[-1]))
        return self.leave(torch.cat(parts, 1))


class Yolo(nn.Module):
    """C2f stages, spatial pyramid pooling, a path to the finer level, decoupled heads with distribution focal loss."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv(3, 16, 3, 2), _conv(16, 32, 3, 2), Bottleneck(32, 1))
        self.fine = nn.Sequential(_conv(32, 48, 3, 2), Bottleneck(48, 2))
        self.coarse = nn.Sequential(_conv(48, 64, 3, 2), Bottleneck(64, 1))
        self.enter, self.leave = _conv(64, 32, 1), _conv(128, 64, 1)
        self.merge = nn.Sequential(_conv(112, 48, 1), Bottleneck(48, 1))
        self.boxes = nn.ModuleList(nn.Sequential(_conv(w, 32), nn.Conv2d(32, 4 * 8, 1)) for w in (48, 64))
        self.classes = nn.ModuleList(nn.Sequential(_conv(w, 32), nn.Conv2d(32, 10, 1)) for w in (48, 64))
        self.register_buffer("bins", torch.arange(8.0))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Images [N, 3, 64, 64] to offsets [N, 4, A] and class scores [N, 10, A]."""
        fine = self.fine(self.stem(image))
        pooled = [self.enter(self.coarse(fine))]
        for _ in range(3):
            pooled.append(functional.max_pool2d(pooled[-1], 5, 1, 2))
        coarse = self.leave(torch.cat(pooled, 1))
        fine = self.merge(torch.cat([functional.interpolate(coarse, scale_factor=2.0), fine], 1))
        levels = (fine, coarse)
        boxes = torch.cat([head(level).flatten(2) for head, level in zip(self.boxes, levels, strict=True)], 2)
        scores = torch.cat([head(level).flatten(2) for head, level in zip(self.classes, levels, strict=True)], 2)
        spread = boxes.unflatten(1, (4, 8)).softmax(2)
        return (spread * self.bins.view(1, 1, 8, 1)).sum(2), scores.sigmoid()


class Denoiser(nn.Module):
    """A diffusion U-Net in small: group norm, time embedding, cross-attention with GEGLU, skips."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(16, 64), nn.SiLU(), nn.Linear(64, 64))
        self.enter, self.down = nn.Conv2d(4, 32, 3, padding=1), nn.Conv2d(32, 64, 3, 2, 1)
        self.shift = nn.ModuleList([nn.Linear(64, 32), nn.Linear(64, 64)])
        self.norms = nn.ModuleList([nn.GroupNorm(8, 32), nn.GroupNorm(8, 64), nn.GroupNorm(8, 96), nn.GroupNorm(8, 64)])
        self.convs = nn.ModuleList([nn.Conv2d(32, 32, 3, padding=1), nn.Conv2d(64, 64, 3, padding=1)])
        self.query, self.key, self.value = nn.Linear(64, 64), nn.Linear(24, 64), nn.Linear(24, 64)
        self.project, self.glu, self.shrink = nn.Linear(64, 64), nn.Linear(64, 256), nn.Linear(128, 64)
        self.layer_norm, self.second_norm = nn.LayerNorm(64), nn.LayerNorm(64)
        self.leave = nn.Conv2d(96, 4, 3, padding=1)

    def forward(self, image: Tensor, moment: Tensor, text: Tensor) -> Tensor:
        """Latents [N, 4, 16, 16], times [N, 16], text [N, T, 24] to noise [N, 4, 16, 16]."""
        moment = self.time(moment)
        top = self.enter(image)
        inner = (
            self.convs[0](functional.silu(self.norms[0](top))) + self.shift[0](functional.silu(moment))[..., None, None]
        )
        top = top + inner
        low = self.down(top)
        inner = (
            self.convs[1](functional.silu(self.norms[1](low))) + self.shift[1](functional.silu(moment))[..., None, None]
        )
        low = low + inner
        tokens = self.norms[3](low).flatten(2).transpose(1, 2)
        tokens = tokens + self._attend(self.layer_norm(tokens), text)
        value, gate = self.glu(self.second_norm(tokens)).chunk(2, -1)
        tokens = tokens + self.shrink(value * functional.gelu(gate))
        low = low + tokens.transpose(1, 2).unflatten(2, (8, 8))
        joined = torch.cat([functional.interpolate(low, scale_factor=2.0), top], 1)
        return self.leave(functional.silu(self.norms[2](joined)))

    def _attend(self, tokens: Tensor, text: Tensor) -> Tensor:
        query, key, value = (
            made.unflatten(-1, (4, 16)).transpose(1, 2)
            for made in (self.query(tokens), self.key(text), self.value(text))
        )
        weights = (query @ key.transpose(-1, -2) / 4).softmax(-1)
        return self.project((weights @ value).transpose(1, 2).flatten(2))


class Autoencoder(nn.Module):
    """A variational autoencoder's two halves, at the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 16))
        self.decoder = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 64), nn.Sigmoid())

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Values [N, 64] to their reconstruction and the log variance [N, 8]."""
        mean, log_variance = self.encoder(values).chunk(2, -1)
        return self.decoder(mean), log_variance


class Nerf(nn.Module):
    """Positional encoding of coordinates, a skip in the middle, two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.ModuleList([nn.Linear(27, 64), nn.Linear(64, 64)])
        self.second = nn.ModuleList([nn.Linear(64 + 27, 64), nn.Linear(64, 64)])
        self.density, self.colour = nn.Linear(64, 1), nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 3))
        self.register_buffer("scales", 2.0 ** torch.arange(4))

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Points [N, 3] to densities [N, 1] and colours [N, 3]."""
        angles = (points[..., None] * self.scales).flatten(1)
        coded = torch.cat([points, angles.sin(), angles.cos()], -1)
        inner = coded
        for layer in self.first:
            inner = layer(inner).relu()
        inner = torch.cat([inner, coded], -1)
        for layer in self.second:
            inner = layer(inner).relu()
        return self.density(inner).relu(), self.colour(inner).sigmoid()


class SpectralClassifier(nn.Module):
    """A keyword spotter that computes its own spectrogram."""

    def __init__(self) -> None:
        super().__init__()
        basis = torch.fft.rfft(torch.eye(64)).T * torch.hann_window(64)
        self.register_buffer("basis", torch.cat([basis.real, basis.imag])[:, None].contiguous())
        self.body = nn.Sequential(
            nn.Conv1d(33, 32, 3, padding=1), nn.BatchNorm1d(32), nn.ReLU(), nn.Conv1d(32, 32, 3), nn.ReLU()
        )
        self.head = nn.Linear(32, 12)

    def forward(self, signal: Tensor) -> Tensor:
        """Signals [N, T] to scores [N, 12]."""
        real, imaginary = functional.conv1d(signal[:, None], self.basis, stride=32).chunk(2, 1)
        return self.head(self.body((real**2 + imaginary**2 + 1e-6).log()).mean(-1))
