"""A made-up but physical audio-visual world, rendered to ordinary .mp4 files (H.264 + AAC).

Every clip shows 1-4 sounding things of one kind on a textured, moving, noisy background. What any one frame
shows determines what is heard; `README_TEXT` (written beside the clips) says what is shared and what is nuisance.
Deterministic: clip i of a world depends on (seed, i) alone.
"""

from equiav.toyworld.clip import KINDS, Factors, draw_factors
from equiav.toyworld.picture import render_frames
from equiav.toyworld.sound import RATE, render_sound
from equiav.toyworld.world import README_TEXT, make_world

__all__ = ["KINDS", "RATE", "README_TEXT", "Factors", "draw_factors", "make_world", "render_frames", "render_sound"]
