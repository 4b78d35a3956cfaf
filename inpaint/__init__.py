"""What everybody shares: pictures, masks, windows, compositing, the job contract, settings, errors.

One word for one thing, everywhere:

* picture: a decoded file (samples, alpha, metadata). pixels: uint8 array (H,W,3), RGB.
* image: float tensor (B,3,H,W), RGB in [-1, 1].
* mask: what the user uploads, and its tensor form, float (B,1,H,W), 1 = hole, 0 = known.
* hole: bool array (H,W), True = to be filled. known region: where the (grown) hole is False.
* visible: an image with its hole blanked to 0. fill: what a generator produced for the hole.
* composite: known region from the image, hole from the fill.
* grow, feather: widen a hole; blend fill and picture over its outermost pixels.
* window: a rectangle of the picture, with a scale, given to a generator.
* generator, discriminator: the two networks. architecture: a generator's class by name.
* model: an architecture with its weights. checkpoint: a model's file. card: what is known about it.
* filler: a generator on a device, pixels in and out. zoo: the models that a worker holds.
* job: one picture asked to be filled. outcome: how it ended. problem: a refusal with a code.
* recipe: one complete training configuration.
"""

__version__ = "0.1.0"
