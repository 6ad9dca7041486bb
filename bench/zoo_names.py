"""The networks of `bench/zoo.py`: every classifier of torchvision, and timm's families.

Of a family with many sizes, the smaller ones. A name is timm's; `tv:` marks torchvision's.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """Networks of one kind.

    Attributes:
        classic: whether all of their inner widths should move
        names: the networks
    """

    classic: bool
    names: tuple[str, ...]


def _classic(names: str) -> Family:
    return Family(True, tuple(names.split()))


def _modern(names: str) -> Family:
    return Family(False, tuple(names.split()))


FAMILIES: dict[str, Family] = {
    "AlexNet": _classic("tv:alexnet"),
    "VGG": _classic("""
        tv:vgg11 tv:vgg13 tv:vgg16 tv:vgg19 tv:vgg11_bn tv:vgg13_bn tv:vgg16_bn tv:vgg19_bn vgg11
        vgg11_bn
    """),
    "SqueezeNet": _classic("tv:squeezenet1_0 tv:squeezenet1_1"),
    "ResNet": _classic("""
        tv:resnet18 tv:resnet34 tv:resnet50 tv:resnet101 tv:resnet152 resnet10t resnet14t resnet18
        resnet18d resnet26 resnet26d resnet26t resnet34d resnet50 resnet50c resnet50d resnet50s
        resnet50t resnet101d resnetaa50 resnetblur50 resnet50_gn resnetrs50 test_resnet
    """),
    "ResNeXt": _classic("""
        tv:resnext50_32x4d tv:resnext101_32x8d tv:resnext101_64x4d resnext50_32x4d resnext50d_32x4d
        resnext101_32x4d resnext26ts
    """),
    "Wide ResNet": _classic("tv:wide_resnet50_2 tv:wide_resnet101_2 wide_resnet50_2"),
    "SE-ResNet": _classic("""
        seresnet33ts seresnet50 seresnet50t seresnext26d_32x4d seresnext26t_32x4d seresnext50_32x4d
        seresnextaa101d_32x8d legacy_seresnet18 legacy_seresnet34 legacy_seresnet50
        legacy_seresnext26_32x4d legacy_senet154
    """),
    "ResNet v2, BiT": _classic("""
        resnetv2_18 resnetv2_34 resnetv2_50 resnetv2_50d resnetv2_50t resnetv2_50x1_bit
        resnetv2_50d_gn resnetv2_50d_evos resnetv2_50d_frn
    """),
    "ECA, GC, SK, ResNeSt, Res2Net": _modern("""
        ecaresnet26t ecaresnet50t ecaresnetlight eca_resnext26ts eca_resnet33ts gcresnet33ts
        gcresnext26ts gcresnext50ts skresnet18 skresnet34 skresnext50_32x4d resnest14d resnest26d
        resnest50d_4s2x40d res2net50_26w_4s res2net50_14w_8s res2next50 res2net50d bat_resnext26ts
        resnet50_clip resnet50_clip_gap resnet51q tresnet_m
    """),
    "DenseNet": _classic("""
        tv:densenet121 tv:densenet161 tv:densenet169 tv:densenet201 densenet121 densenetblur121d
    """),
    "GoogLeNet, Inception": _classic("""
        tv:googlenet tv:inception_v3 inception_v3 inception_v4 inception_resnet_v2
    """),
    "Xception": _classic("xception41 xception41p xception65 legacy_xception"),
    "MobileNet v1, v2, v3": _classic("""
        tv:mobilenet_v2 tv:mobilenet_v3_small tv:mobilenet_v3_large mobilenetv1_100
        mobilenetv1_100h mobilenetv2_035 mobilenetv2_050 mobilenetv2_100 mobilenetv2_110d
        mobilenetv2_140 mobilenetv3_small_050 mobilenetv3_small_100 mobilenetv3_large_075
        mobilenetv3_large_100 mobilenetv3_rw tf_mobilenetv3_small_minimal_100 lcnet_050 lcnet_100
        fbnetc_100 fbnetv3_b hardcorenas_a semnasnet_075 spnasnet_100
    """),
    "MobileNet v4": _modern("""
        mobilenetv4_conv_small mobilenetv4_conv_small_050 mobilenetv4_conv_medium
        mobilenetv4_conv_aa_medium mobilenetv4_conv_blur_medium mobilenetv4_hybrid_medium
    """),
    "MnasNet": _classic("""
        tv:mnasnet0_5 tv:mnasnet0_75 tv:mnasnet1_0 tv:mnasnet1_3 mnasnet_small mnasnet_100
    """),
    "EfficientNet": _classic("""
        tv:efficientnet_b0 tv:efficientnet_b1 tv:efficientnet_b2 tv:efficientnet_b3
        tv:efficientnet_b4 tv:efficientnet_b5 tv:efficientnet_b6 tv:efficientnet_b7
        tv:efficientnet_v2_s tv:efficientnet_v2_m tv:efficientnet_v2_l efficientnet_b0
        efficientnet_b1 efficientnet_b0_gn efficientnet_b0_g8_gn efficientnet_b0_g16_evos
        efficientnet_b1_pruned efficientnet_blur_b0 efficientnet_es efficientnet_lite0
        efficientnetv2_rw_t gc_efficientnetv2_rw_t tf_efficientnet_b0 tf_efficientnetv2_b0
        tf_efficientnetv2_s mixnet_s mixnet_m tinynet_a tinynet_e test_efficientnet
    """),
    "EfficientNet with conditional weights": _modern("efficientnet_cc_b0_4e efficientnet_cc_b0_8e"),
    "RegNet": _classic("""
        tv:regnet_x_400mf tv:regnet_x_800mf tv:regnet_x_1_6gf tv:regnet_x_3_2gf tv:regnet_x_8gf
        tv:regnet_x_16gf tv:regnet_x_32gf tv:regnet_y_400mf tv:regnet_y_800mf tv:regnet_y_1_6gf
        tv:regnet_y_3_2gf tv:regnet_y_8gf tv:regnet_y_16gf tv:regnet_y_32gf tv:regnet_y_128gf
        regnetx_002 regnetx_004 regnety_002 regnety_008 regnety_040_sgn regnetz_005 regnetz_b16
        regnetz_b16_evos regnetv_040 test_byobnet
    """),
    "ShuffleNet": _classic("""
        tv:shufflenet_v2_x0_5 tv:shufflenet_v2_x1_0 tv:shufflenet_v2_x1_5 tv:shufflenet_v2_x2_0
    """),
    "ConvNeXt": _classic("""
        tv:convnext_tiny tv:convnext_small tv:convnext_base tv:convnext_large convnext_zepto_rms
        convnext_atto convnext_atto_ols convnext_atto_rms convnext_femto convnext_pico
        convnext_nano convnext_tiny convnext_tiny_hnf convnextv2_atto convnextv2_femto
        convnextv2_nano test_convnext test_convnext2 test_convnext3
    """),
    "NFNet": _classic("""
        dm_nfnet_f0 nfnet_f0 nfnet_l0 nf_resnet26 nf_resnet50 nf_seresnet26 nf_regnet_b0
        nf_regnet_b1 test_nfnet
    """),
    "NFNet with ECA": _modern("eca_nfnet_l0 nf_ecaresnet26"),
    "RepVGG, MobileOne, GENet": _classic("""
        repvgg_a0 repvgg_a1 repvgg_b0 repvgg_b1g4 repvgg_d2se mobileone_s0 mobileone_s1 mobileone_s4
        gernet_s gernet_m
    """),
    "HRNet": _classic("hrnet_w18_small hrnet_w18_small_v2 hrnet_w18 hrnet_w18_ssld hrnet_w32"),
    "DLA": _classic("""
        dla34 dla46_c dla46x_c dla60 dla60x dla60x_c dla60_res2net dla60_res2next dla102
    """),
    "GhostNet": _classic("""
        ghostnet_050 ghostnet_100 ghostnet_130 ghostnetv2_100 ghostnetv2_130 repghostnet_050
        repghostnet_100
    """),
    "DPN": _classic("dpn48b dpn68 dpn68b dpn92"),
    "CSP, DarkNet": _classic("""
        cspresnet50 cspresnet50d cspresnext50 cspdarknet53 darknet53 darknetaa53 cs3darknet_s
        cs3darknet_focus_s cs3darknet_focus_m cs3sedarknet_l cs3edgenet_x
    """),
    "VoVNet, HGNet, SelecSLS": _classic("""
        vovnet39a ese_vovnet19b_dw ese_vovnet39b ese_vovnet39b_evos hgnet_tiny hgnetv2_b0 hgnetv2_b1
        selecsls42 selecsls42b selecsls60
    """),
    "ReXNet, NASNet": _classic("rexnet_100 rexnet_130 rexnetr_100 nasnetalarge pnasnet5large"),
    "Other convolutional": _modern("""
        convmixer_768_32 convmixer_1024_20_ks9_p14 inception_next_atto inception_next_tiny
        fasternet_t0 fasternet_s starnet_s050 starnet_s1 rdnet_tiny mambaout_femto mambaout_kobe
        repvit_m0_9 repvit_m1 focalnet_tiny_srf focalnet_small_lrf poolformer_s12 poolformerv2_s12
        convformer_s18 eca_vovnet39b cspnext_tiny lcnetv2_small
    """),
    "ViT": _modern("""
        tv:vit_b_16 tv:vit_b_32 tv:vit_l_16 tv:vit_l_32 tv:vit_h_14 vit_tiny_patch16_224
        vit_small_patch16_224 vit_small_patch32_224 vit_base_patch32_224 vit_base_patch16_224
        vit_small_patch14_dinov2 vit_small_patch14_reg4_dinov2 vit_base_patch16_gap_224
        vit_base_patch16_rpn_224 vit_base_patch16_siglip_224 vit_base_patch32_clip_224
        vit_base_patch16_xp_224 vit_small_patch16_18x2_224 vit_wee_patch16_reg1_gap_256
        vit_little_patch16_reg4_gap_256 vit_relpos_small_patch16_224
        vit_relpos_base_patch16_clsgap_224 vit_srelpos_small_patch16_224 vit_tiny_r_s16_p8_224
        vit_small_r26_s32_224 vit_small_resnet26d_224 flexivit_small test_vit test_vit2 test_vit3
        test_vit4
    """),
    "DeiT, BEiT, EVA, CaiT, XCiT": _modern("""
        deit_tiny_patch16_224 deit_small_patch16_224 deit_tiny_distilled_patch16_224
        deit3_small_patch16_224 deit3_medium_patch16_224 beit_base_patch16_224
        beitv2_base_patch16_224 eva02_tiny_patch14_224 eva02_small_patch14_224
        vit_small_patch16_rope_224 vit_small_patch16_rope_mixed_224 vit_small_patch16_dinov3
        cait_xxs24_224 cait_xxs36_224 xcit_nano_12_p16_224 xcit_tiny_12_p16_224
        xcit_small_12_p16_224
    """),
    "Swin": _modern("""
        tv:swin_t tv:swin_s tv:swin_b tv:swin_v2_t tv:swin_v2_s tv:swin_v2_b
        swin_tiny_patch4_window7_224 swin_small_patch4_window7_224 swin_s3_tiny_224
        swinv2_tiny_window8_256 swinv2_cr_tiny_224 swinv2_cr_tiny_ns_224
    """),
    "MLP-Mixer": _modern("""
        mixer_s16_224 mixer_s32_224 mixer_b32_224 gmixer_12_224 gmixer_24_224 resmlp_12_224
        resmlp_24_224 gmlp_ti16_224 gmlp_s16_224
    """),
    "Attention and convolution": _modern("""
        tv:maxvit_t maxvit_pico_rw_256 maxvit_nano_rw_256 maxvit_rmlp_pico_rw_256 maxvit_tiny_tf_224
        coatnet_pico_rw_224 coatnet_nano_rw_224 coatnet_rmlp_nano_rw_224 coatnext_nano_rw_224
        test_maxvit caformer_s18 mobilevit_xxs mobilevit_xs mobilevit_s mobilevitv2_050
        mobilevitv2_100 edgenext_xx_small edgenext_x_small edgenext_small efficientformer_l1
        efficientformerv2_s0 efficientformerv2_s1 fastvit_t8 fastvit_sa12 fastvit_mci0
        efficientvit_b0 efficientvit_b1 efficientvit_l1 efficientvit_m0 efficientvit_m1
        levit_128s levit_128 levit_conv_128s levit_256d nextvit_small visformer_tiny visformer_small
        swiftformer_xs swiftformer_s shvit_s1 shvit_s2 botnet26t_256 sebotnet33ts_256
        eca_botnext26ts_256 halonet26t lambda_resnet26t convit_tiny convit_small
    """),
    "Hierarchical and other transformers": _modern("""
        pvt_v2_b0 pvt_v2_b1 pvt_v2_b2_li twins_pcpvt_small twins_svt_small pit_ti_224 pit_s_224
        pit_ti_distilled_224 mvitv2_tiny mvitv2_small hiera_tiny_224 nest_tiny davit_tiny
        coat_lite_tiny coat_tiny coat_lite_small crossvit_tiny_240 crossvit_9_240
        crossvit_9_dagger_240 gcvit_xxtiny gcvit_xtiny tiny_vit_5m_224 tiny_vit_11m_224
        tnt_s_patch16_224 volo_d1_224 sequencer2d_s vitamin_small_224 samvit_base_patch16_224
        iformer_t lowformer_b0 cpubone_b0_bfrobust csatv2
    """),
}
"""By name; a network stands in one family."""
