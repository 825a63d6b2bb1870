"""Train a small CLIP on ``eyeshine.roads`` from nothing, on a CPU, and score its heat maps against exact masks."""
