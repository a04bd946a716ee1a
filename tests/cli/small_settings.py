"""Overrides that make features and models of a second's work."""

TINY = [
    "features.clip_s=0.655",
    "features.hop_s=0.655",
    "features.time_frames=64",
    "features.mel_bins=32",
    "features.frame_side=32",
    "features.frames_per_clip=2",
]
SMALL = [
    "model.width=32",
    "model.depth=1",
    "model.heads=2",
    "model.image_side=32",
    "model.head_hidden=32",
    "model.embedding=16",
    "model.centroid_samples=4",
    "train.global_batch=4",
    "train.epochs=2",
]
