"""Small networks of every section kind; what AlexeyAB's program makes of them stands in golden.json."""

from __future__ import annotations


def network(size: str, *sections: str) -> str:
    """Writes a cfg: size is `w h c`, a section is its name and its keys, separated by blanks."""
    width, height, channels = size.split()
    lines = ["[net]", f"width={width}", f"height={height}", f"channels={channels}"]
    for section in sections:
        name, *keys = section.split()
        lines += ["", f"[{name}]", *keys]
    return "\n".join(lines) + "\n"


CONV = "convolutional filters=8 size=3 pad=1 batch_normalize=1 activation=leaky"
FIVE = "filters=5 size=3 pad=1 activation=linear"

#: name -> cfg
GOLDEN = {
    # convolutions
    "convolution": network("17 13 3", "conv", "conv filters=4 size=2", "convolutional filters=4 size=3 padding=2",
                           "conv filters=6 size=5 pad=2 padding=9 stride=3 cbn=1", "conv filters=2 size=4 pad=1"),
    "convolution strides": network("21 17 3", f"{CONV} stride_x=2 stride_y=1", f"{CONV} stride_y=3",
                                   f"{CONV} stride=2 stride_x=1", f"{CONV} stride_x=0 stride=2"),
    "convolution groups": network("9 9 6", "conv filters=12 groups=3 size=3 pad=1 batch_normalize=1",
                                  "conv filters=24 groups=12 size=3", "conv filters=24 groups=24 size=1",
                                  "conv filters=32 groups=4 size=3 pad=1 xnor=1 batch_normalize=1"),
    "convolution dilation": network("19 15 3", f"{CONV} dilation=2", f"{CONV} dilation=3 stride=2",
                                    "conv filters=4 size=1 dilation=2"),
    "convolution shared": network("9 9 8", CONV, CONV, f"conv share_index=-2 {FIVE.replace('5', '8', 1)}",
                                  f"conv share_index=1 {FIVE.replace('5', '8', 1)} batch_normalize=1 stride=2"),
    "convolution flags": network("9 9 3", f"{CONV} flipped=1", f"{CONV} binary=1 bin_output=1", f"{CONV} clip=1 dot=1",
                                 f"{CONV} grad_centr=1 reverse=1 coordconv=1", f"{CONV} learning_rate=2 onlyforward=1"),
    "convolution larger than its input": network("4 2 3", CONV, "conv filters=4 size=3 stride=2", CONV),
    "convolution without weights in the file": network("9 9 3", CONV, f"{CONV} dontload=1", f"{CONV} dontloadscales=1",
                                                       f"{CONV} dontloadscales=1 dontload=1", CONV),
    "antialiasing": network("17 18 3", f"{CONV} antialiasing=1", f"{CONV} antialiasing=1 stride=2", CONV,
                            f"{CONV} antialiasing=2 stride=2", "conv filters=4", "route layers=3", "conv filters=4",
                            f"{CONV} antialiasing=1 stride_x=2 stride_y=1", CONV),
    "antialiasing by reference": network("17 18 3", f"{CONV} antialiasing=1 stride=2", "route layers=-1", CONV,
                                         f"{CONV} antialiasing=1", "shortcut from=-1", CONV),
    "antialiasing of a pooling": network("17 18 3", CONV, "maxpool size=2 stride=2 antialiasing=1", CONV,
                                         "maxpool size=3 stride=2 antialiasing=2", CONV, "route layers=1", CONV),
    "local": network("10 9 4", "local filters=6 size=3 pad=1 stride=2 activation=leaky", "local filters=3 size=3",
                     "local filters=2"),
    # pools
    "maxpool": network("21 17 3", "maxpool size=2 stride=1", "route layers=0", "max size=2 stride=2", "route layers=0",
                       "maxpool size=3 stride=2", "route layers=0", "maxpool size=3 stride=2 padding=0",
                       "route layers=0", "maxpool stride=3", "route layers=0", "maxpool size=13 stride=1",
                       "route layers=0", "maxpool size=3 stride_x=2 stride_y=1", "route layers=0",
                       "maxpool size=4 stride=2 padding=5", "route layers=0", "maxpool"),
    "maxpool of channels": network("9 7 3", "conv filters=12", "maxpool maxpool_depth=1 out_channels=4 size=2 stride=2",
                                   "max maxpool_depth=1 out_channels=3", "maxpool maxpool_depth=1"),
    "average pools": network("21 17 6", "local_avgpool size=3 stride=2", "route layers=0",
                             "local_avg size=2 stride=2 padding=0", "route layers=0",
                             "local_avgpool size=4 stride_x=2 stride_y=3", "avgpool", "conv filters=4", "avg"),
    # cells moved
    "upsample": network("12 8 3", "upsample", "upsample stride=3 scale=0.5", "upsample stride=-2", "upsample stride=1"),
    "reorg": network("12 12 8", "reorg stride=2", "reorg stride=2 reverse=1", "conv filters=18", "reorg stride=3",
                     "route layers=0", "reorg stride=2 reverse=1"),
    "reorg3d": network("12 12 8", "reorg3d stride=2", "reorg3d stride=2 reverse=1", "reorg3d stride=3", "reorg3d"),
    "crop": network("12 10 3", "crop crop_height=8 crop_width=9 flip=0 angle=0", "conv filters=2", "crop noadjust=1"),
    # joins
    "route": network("10 8 3", CONV, CONV, "route layers=-1,-2", "route layers=0", "route layers=-1,2,1",
                     "route layers=2 groups=2 group_id=1", "route layers=0,2 groups=4 group_id=3",
                     "route layers=0 groups=3 group_id=2"),
    "shortcut": network("10 8 3", CONV, CONV, "shortcut from=-2 activation=leaky", CONV, "shortcut from=-2,0,-3",
                        "shortcut from=-2 weights_type=per_feature weights_normalization=relu",
                        "shortcut from=-2,-3 weights_type=per_layer weights_normalization=softmax",
                        "shortcut from=-2,0,1 weights_type=per_channel weights_normalization=avg_relu",
                        "shortcut from=-1 weights_type=none"),
    "shortcut of different widths": network("10 8 3", CONV, "conv filters=5", "shortcut from=-2", CONV,
                                            "shortcut from=-2"),
    "scale_channels": network("10 8 3", CONV, "avgpool", "conv filters=8", "scale_channels from=0 activation=linear",
                              "conv filters=1", "scale_channels from=-2 scale_wh=1"),
    "sam": network("10 8 3", CONV, CONV, "sam from=-2", CONV, "sam from=1 activation=logistic"),
    # identities, norms, ends
    "identities": network("10 8 3", CONV, "dropout probability=.5", "empty", "silence", "activation activation=relu",
                          "batchnorm", "normalization", "lrn size=3 alpha=1 beta=2 kappa=3", "dropout"),
    "classifier": network("8 8 3", CONV, "connected output=12 activation=relu batch_normalize=1", "dropout",
                          "conn output=7", "softmax groups=7", "cost type=sse"),
    "classifier of a map": network("8 8 3", "conv filters=10", "avgpool", "soft groups=2 temperature=2", "cost"),
    "implicit": network("10 8 3", CONV, "implicit filters=8 atoms=2 mean=1 std=.1", "implicit", "route layers=0",
                        "conv filters=8"),
    # heads
    "yolo": network("32 32 3", "conv filters=14", "yolo classes=2 num=5 mask=1,3 anchors=1,2,3,4,5,6,7,8,9,10",
                    "route layers=0", "conv filters=75", "yolo num=3 anchors=1,2,3,4,5,6"),
    "Gaussian_yolo": network("32 32 3", "conv filters=33", "Gaussian_yolo classes=2 num=9 mask=6,7,8"),
    "region": network("32 32 3", "conv filters=35", "region classes=2 num=5 softmax=1 anchors=1,1,2,2,3,3,4,4,5,5"),
    "detection": network("32 32 3", CONV, "connected output=539 activation=linear",
                         "detection classes=1 coords=4 num=2 side=7"),
    "embedding": network("32 32 3", "conv filters=8", "conv filters=14", "yolo classes=2 num=2 embedding_layer=0",
                         "route layers=0", "contrastive classes=2 yolo_layer=2"),
    # recurrent kinds behind a map, since darknet divides by the number of layers that read one
    "crnn": network("9 7 3", CONV, "crnn output=6 hidden=4 pad=1 batch_normalize=1 activation=leaky",
                    "crnn output=8 hidden=4 size=3 pad=1 groups=2 xnor=0 shortcut=1"),
    "crnn of signs": network("9 7 3", CONV, "crnn output=8 hidden=4 pad=1 groups=2 xnor=1"),
    "rnn": network("5 4 3", CONV, "rnn output=6 hidden=4 batch_normalize=1", "rnn output=3 hidden=7 activation=leaky"),
    "gru": network("5 4 3", CONV, "gru output=6 batch_normalize=1", "connected output=4", "gru output=3"),
    "lstm": network("5 4 3", CONV, "lstm output=6 batch_normalize=1", "lstm output=4"),
    "conv_lstm": network("9 7 3", CONV, "conv_lstm output=6 size=3 pad=1 batch_normalize=1 activation=leaky",
                         "conv_lstm output=4 size=1 peephole=1", "conv_lstm output=8 pad=1 groups=4 size=3",
                         "conv_lstm output=8 pad=1 groups=2 size=3 peephole=1 batch_normalize=1"),
    "conv_lstm bottleneck": network("9 7 3", CONV, "conv_lstm output=6 size=3 pad=1 bottleneck=1 batch_normalize=1"),
    "history": network("9 7 3", CONV, "history history_size=3", "history"),
    # large enough for the three decimals of the printed figure
    "operations of convolutions": network("256 256 3", "conv filters=32 size=3 pad=1",
                                          "conv filters=64 size=3 groups=32 pad=1",
                                          "conv filters=64 size=3 xnor=1 pad=1",
                                          "conv filters=64 size=3 pad=1 antialiasing=1 stride=2", "conv filters=64"),
    "operations of pools": network("256 256 3", "conv filters=64", "maxpool size=13 stride=1", "local_avgpool size=5",
                                   "maxpool maxpool_depth=1 out_channels=8 size=9"),
    "operations of shortcuts": network("256 256 3", "conv filters=64", "conv filters=64", "shortcut from=-2,-1",
                                       "shortcut from=-2 weights_type=per_channel weights_normalization=relu"),
    "operations of a crnn": network("256 256 3", "crnn output=32 hidden=16 pad=1"),
    "operations of a conv_lstm": network("128 128 3", "conv_lstm output=32 pad=1 peephole=1",
                                         "conv_lstm output=16 pad=1"),
}  # fmt: skip
