"""The networks that `docs/models.py` looks at, as data: smallest sensible image, options, and what is known of them."""

from typing import Any, NamedTuple

Options = dict[str, Any]

# Families that take any image: 64 px leaves 2 x 2 cells at stride 32.
_TIMM_64 = """
resnet18 resnet50 resnext50_32x4d resnetv2_50 seresnet18 resnest14d skresnet18 legacy_seresnet18
regnetx_002 regnety_002 regnetz_b16 densenet121 dla34 res2net50_14w_8s dpn48b hrnet_w18_small
cspresnet50 cspdarknet53 darknet17 cs3darknet_focus_s ese_vovnet19b_slim_dw tresnet_m legacy_xception xception41
efficientnet_b0 efficientnetv2_rw_t mobilenetv2_050 mnasnet_050 semnasnet_075 spnasnet_100 fbnetc_100 tinynet_e
mixnet_s hardcorenas_a mobilenetv3_small_050 lcnet_050 mobilenetv4_conv_small_050 mobilenetv4_hybrid_medium_075
fbnetv3_b rexnet_100 ghostnet_050 repghostnet_050 mobileone_s0 repvgg_a0 gernet_s
lambda_resnet26t nfnet_l0 nf_resnet26 nf_regnet_b0 hgnet_tiny hgnetv2_b0 lcnetv2_small cspnext_tiny fasternet_t0
starnet_s050 rdnet_tiny repvit_m0_9 cpubone_nano convnext_atto convnextv2_atto edgenext_xx_small
inception_next_atto mambaout_femto focalnet_tiny_srf fastvit_t8 efficientvit_b0 lowformer_b0 iformer_t
nextvit_small swiftformer_xs mobilevit_xxs mobilevitv2_050 caformer_s18 convformer_s18 poolformer_s12
poolformerv2_s12 davit_tiny pvt_v2_b0 sequencer2d_s xcit_nano_12_p16_224 vit_small_patch16_dinov3
"""

# Families that are built for one size, which can be another one.
_TIMM_SIZED = """
coatnet_nano_rw_224 maxvit_nano_rw_256 maxxvitv2_nano_rw_256 swin_tiny_patch4_window7_224
swinv2_tiny_window8_256 swinv2_cr_tiny_224 swin_s3_tiny_224 gcvit_xxtiny nest_tiny pit_ti_224 visformer_tiny
volo_d1_224 vitamin_small_224 convit_tiny cait_xxs24_224 tnt_s_patch16_224
vit_tiny_patch16_224 deit_tiny_patch16_224 deit_tiny_distilled_patch16_224 deit3_small_patch16_224
eva02_tiny_patch14_224 vit_relpos_small_patch16_224 vit_tiny_r_s16_p8_224 vit_dwee_patch16_reg1_gap_256
mixer_s32_224 resmlp_12_224 gmixer_12_224 gmlp_ti16_224
"""

_SMALL_VIT: Options = {"img_size": 64, "depth": 6, "embed_dim": 96, "num_heads": 3}

NETWORKS: dict[str, tuple[int, Options]] = {
    **{f"timm/{name}": (64, {}) for name in _TIMM_64.split()},
    **{f"timm/{name}": (64, {"img_size": 64}) for name in _TIMM_SIZED.split()},
    "timm/vgg11_bn": (64, {}),
    "timm/ghostnetv2_100": (128, {}),
    "timm/ghostnetv3_050": (128, {}),
    "timm/selecsls42": (128, {}),
    "timm/inception_v3": (128, {}),
    "timm/inception_v4": (128, {}),
    "timm/inception_resnet_v2": (128, {}),
    "timm/convmixer_768_32": (64, {}),
    "timm/csatv2": (128, {}),
    "timm/shvit_s1": (128, {}),
    "timm/efficientvim_m1": (128, {}),
    "timm/botnet26t_256": (256, {}),
    "timm/halonet26t": (256, {}),
    "timm/efficientformer_l1": (224, {}),
    "timm/efficientformerv2_s0": (224, {}),
    "timm/efficientvit_m0": (224, {}),
    "timm/twins_pcpvt_small": (224, {}),
    "timm/twins_svt_small": (224, {}),
    "timm/coat_lite_tiny": (224, {}),
    "timm/coat_tiny": (224, {}),
    "timm/crossvit_tiny_240": (240, {}),
    "timm/mvitv2_tiny": (224, {}),
    "timm/tiny_vit_5m_224": (224, {}),
    "timm/levit_128s": (224, {}),
    "timm/levit_conv_128s": (224, {}),
    "timm/beit_base_patch16_224": (64, _SMALL_VIT),
    "timm/beitv2_base_patch16_224": (64, _SMALL_VIT),
    "timm/samvit_base_patch16_224": (64, _SMALL_VIT),
    "timm/naflexvit_base_patch16_gap": (64, {"depth": 6, "embed_dim": 96, "num_heads": 3}),
    "timm/qwen3_vit_88m": (96, {"depth": 6, "embed_dim": 192, "num_heads": 3}),
    "timm/gemma4_vit_167m": (96, {"depth": 6, "embed_dim": 192, "num_heads": 3}),
    "timm/deepseek_vit_412m": (56, {"depth": 6, "embed_dim": 192, "num_heads": 3}),
    "timm/hieradet_small": (64, {}),
    "torchvision/alexnet": (128, {}),
    "torchvision/vgg11_bn": (64, {}),
    "torchvision/resnet18": (64, {}),
    "torchvision/resnext50_32x4d": (64, {}),
    "torchvision/wide_resnet50_2": (64, {}),
    "torchvision/densenet121": (64, {}),
    "torchvision/inception_v3": (128, {}),
    "torchvision/googlenet": (64, {}),
    "torchvision/squeezenet1_1": (64, {}),
    "torchvision/shufflenet_v2_x0_5": (64, {}),
    "torchvision/mobilenet_v2": (64, {}),
    "torchvision/mobilenet_v3_small": (64, {}),
    "torchvision/mnasnet0_5": (64, {}),
    "torchvision/efficientnet_b0": (64, {}),
    "torchvision/efficientnet_v2_s": (64, {}),
    "torchvision/regnet_y_400mf": (64, {}),
    "torchvision/convnext_tiny": (64, {}),
    "torchvision/vit_b_16": (64, {"image_size": 64}),
    "torchvision/swin_t": (64, {}),
    "torchvision/swin_v2_t": (64, {}),
    "torchvision/maxvit_t": (224, {}),
}

FAST = (
    "timm/resnet18",
    "timm/mobilenetv4_conv_small_050",
    "timm/efficientnet_b0",
    "timm/convnext_atto",
    "timm/swin_tiny_patch4_window7_224",
    "timm/vit_tiny_patch16_224",
    "timm/pit_ti_224",
    "timm/xcit_nano_12_p16_224",
    "timm/mambaout_femto",
    "torchvision/squeezenet1_1",
    "torchvision/shufflenet_v2_x0_5",
    "torchvision/swin_v2_t",
)
"""Diverse and cheap ones, for every run of the tests."""

# torchvision has no forward_features: what its head reads, as module and side.
FINAL: dict[str, tuple[str, str]] = {
    **{
        f"torchvision/{name}": ("avgpool", "input")
        for name in (
            *("alexnet", "vgg11_bn", "resnet18", "resnext50_32x4d", "wide_resnet50_2", "inception_v3", "googlenet"),
            *("mobilenet_v3_small", "efficientnet_b0", "efficientnet_v2_s", "regnet_y_400mf", "convnext_tiny"),
            *("swin_t", "swin_v2_t"),
        )
    },
    "torchvision/densenet121": ("features", "output"),
    "torchvision/squeezenet1_1": ("classifier", "input"),
    "torchvision/shufflenet_v2_x0_5": ("conv5", "output"),
    "torchvision/mobilenet_v2": ("features", "output"),
    "torchvision/mnasnet0_5": ("layers", "output"),
    "torchvision/vit_b_16": ("encoder.ln", "input"),
    "torchvision/maxvit_t": ("classifier.0", "input"),
}


class Exempt(NamedTuple):
    """A network that does not work: image, options, the text with which it fails, and why."""

    size: int
    options: Options
    fails: str
    reason: str


EXCEPTIONS: dict[str, Exempt] = {
    "timm/hiera_tiny_224": Exempt(
        64,
        {"img_size": 64},
        "taps are not three",
        "its tokens stand in the order in which they are pooled, not in that of the picture, until the last stage; "
        "so only its last map can be read",
    ),
}

# Pattern of parameters that get no gradient in any training, and why.
UNUSED: dict[str, dict[str, str]] = {
    "timm/rexnet_100": {
        r"features\.\d+\.se\.fc1\.bias": "a BatchNorm follows at once and takes the bias away",
    },
}
