"""The bundled base model: a small Stable Diffusion trained from scratch on a procedural world.

world       what exists and how it is captioned: objects, artists, places, colours, one implied attribute
painting    scene -> pixels: shapes, backgrounds, artists' styles
text        captions -> tokenizer and text encoder
autoencoder renders -> AutoencoderKL
unet        latents and captions -> UNet2DConditionModel
classifiers renders -> image classifiers that judge what was drawn
train       one command that rebuilds all of it
measure     the figures of the model card, over generated images
"""
