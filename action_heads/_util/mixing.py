"""Which backbones mix the time steps of a chunk. Listing the heads needs this without torch, which backbones import."""

MIXES_TIME = {"mlp": False, "mixer": True, "transformer": True, "unet": True}
