"""HD2S, the network that TinyHD was distilled from (Bellitto et al., "Hierarchical Domain-Adapted Feature Learning for
Video Saliency Prediction", arXiv 2010.01220), without its domain adaptation.

Modules are named as in the authors' state dict, which therefore loads as it is.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _Conv3d(nn.Module):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int | tuple[int, int, int] = 1,
        stride: int | tuple[int, int, int] = 1,
        padding: int | tuple[int, int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv3d(in_channels, out_channels, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm3d(out_channels, eps=1e-3, momentum=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class _Separable3d(nn.Module):
    """A convolution in space, then one in time."""

    def __init__(self, in_channels: int, out_channels: int, k: int, s: int, p: int) -> None:
        super().__init__()
        self.conv_s = nn.Conv3d(in_channels, out_channels, (1, k, k), (1, s, s), (0, p, p), bias=False)
        self.bn_s = nn.BatchNorm3d(out_channels, eps=1e-3, momentum=1e-3)
        self.conv_t = nn.Conv3d(out_channels, out_channels, (k, 1, 1), (s, 1, 1), (p, 0, 0), bias=False)
        self.bn_t = nn.BatchNorm3d(out_channels, eps=1e-3, momentum=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn_s(self.conv_s(x)))
        return F.relu(self.bn_t(self.conv_t(x)))


class _Mixed(nn.Module):
    """An inception block of S3D."""

    def __init__(self, i: int, a: int, b: tuple[int, int], c: tuple[int, int], d: int) -> None:
        super().__init__()
        self.branch0 = nn.Sequential(_Conv3d(i, a))
        self.branch1 = nn.Sequential(_Conv3d(i, b[0]), _Separable3d(*b, 3, 1, 1))
        self.branch2 = nn.Sequential(_Conv3d(i, c[0]), _Separable3d(*c, 3, 1, 1))
        self.branch3 = nn.Sequential(nn.MaxPool3d(3, 1, 1), _Conv3d(i, d))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch0(x), self.branch1(x), self.branch2(x), self.branch3(x)], 1)


class _S3D(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block1 = nn.Sequential(_Separable3d(3, 64, 7, 2, 3), nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)))
        self.block2 = nn.Sequential(
            _Conv3d(64, 64), _Separable3d(64, 192, 3, 1, 1), nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))
        )
        self.block3 = nn.Sequential(
            _Mixed(192, 64, (96, 128), (16, 32), 32),
            _Mixed(256, 128, (128, 192), (32, 96), 64),
            nn.MaxPool3d(3, 2, 1),
        )
        self.block4 = nn.Sequential(
            _Mixed(480, 192, (96, 208), (16, 48), 64),
            _Mixed(512, 160, (112, 224), (24, 64), 64),
            _Mixed(512, 128, (128, 256), (24, 64), 64),
            _Mixed(512, 112, (144, 288), (32, 64), 64),
            _Mixed(528, 256, (160, 320), (32, 128), 128),
            nn.MaxPool3d(2, 2),
        )
        self.block5 = nn.Sequential(
            _Mixed(832, 256, (160, 320), (32, 128), 128), _Mixed(832, 384, (192, 384), (48, 128), 128)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        f2 = self.block2(self.block1(x))
        f3 = self.block3(f2)
        f4 = self.block4(f3)
        return f2, f3, f4, self.block5(f4)


class _Conv2d(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=1e-3, momentum=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class _Separable2d(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_s = nn.Conv2d(channels, channels, 3, 1, 1, groups=channels, bias=False)
        self.bn_s = nn.BatchNorm2d(channels)
        self.conv_t = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn_t = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn_s(self.conv_s(x)))
        return F.relu(self.bn_t(self.conv_t(x)))


class _Decoder(nn.Module):
    """Stages `deconvlayer<number>_<n>` (n counting down), each ending in a bilinear x2, then `last_conv<number>`."""

    def __init__(self, number: int, channels: tuple[int, ...], doubled: int) -> None:
        super().__init__()
        self.stages = [f"deconvlayer{number}_{n}" for n in range(len(channels) - 1, 0, -1)]
        for k, name in enumerate(self.stages):
            separable = [_Separable2d(channels[k + 1]) for _ in range(2 if k < doubled else 1)]
            self.add_module(name, nn.Sequential(_Conv2d(channels[k], channels[k + 1]), *separable))
        self.last = f"last_conv{number}"
        self.add_module(self.last, nn.Conv2d(channels[-1], 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        for name in self.stages:
            x = F.interpolate(getattr(self, name)(x), scale_factor=2, mode="bilinear", align_corners=False)
        return torch.sigmoid(getattr(self, self.last)(x))


class HD2S(nn.Module):
    """The teacher network; 29.8 M parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.featureExtractor = _S3D()
        for name, channels in (
            ("conv_t5", 1024),
            ("conv_t4", 832),
            ("conv_t3_1", 480),
            ("conv_t3_2", 480),
            ("conv_t2_1", 192),
            ("conv_t2_2", 192),
            ("conv_t2_3", 192),
        ):
            self.add_module(name, _Conv3d(channels, channels, (3, 1, 1), (2, 1, 1), (1, 0, 0)))
        self.decoder5 = _Decoder(5, (1024, 512, 256, 128, 64, 3), doubled=2)
        self.decoder4 = _Decoder(4, (832, 512, 256, 128, 64, 3), doubled=2)
        self.decoder3 = _Decoder(3, (480, 256, 128, 64, 3), doubled=0)
        self.decoder2 = _Decoder(2, (192, 128, 64, 3), doubled=0)
        self.last_conv = nn.Conv2d(4, 1, 1)

    def forward(self, clip: Tensor) -> dict[str, Tensor]:
        """(N, 3, 16, H, W) in [-1, 1], H and W multiples of 32 -> maps of the last frame in (0, 1): "fused"
        (N, 1, H, W) and "d1" (N, 4, H, W), the hierarchical maps of decoder2, 3, 4, 5 in the order of TinyHD's D1."""
        f2, f3, f4, f5 = self.featureExtractor(clip)
        squeezed = {
            5: self.conv_t5(f5),
            4: self.conv_t4(f4),
            3: self.conv_t3_2(self.conv_t3_1(f3)),
            2: self.conv_t2_3(self.conv_t2_2(self.conv_t2_1(f2))),
        }
        maps = {number: getattr(self, f"decoder{number}")(x[:, :, 0]) for number, x in squeezed.items()}
        fused = torch.sigmoid(self.last_conv(torch.cat([maps[5], maps[4], maps[3], maps[2]], 1)))
        return {"fused": fused, "d1": torch.cat([maps[2], maps[3], maps[4], maps[5]], 1)}
