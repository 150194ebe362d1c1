"""``gmem evaluate``: the published scores of sets of images, FID foremost."""
