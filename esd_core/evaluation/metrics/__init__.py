"""Figures beside the judges' answers, one file each: pure functions of images and a loaded model.

Images are (N, H, W, 3) uint8 RGB throughout.
"""
