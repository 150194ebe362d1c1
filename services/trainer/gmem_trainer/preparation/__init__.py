"""From images to what a network is trained on: latents and features, in resumable shards."""
