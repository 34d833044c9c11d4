"""Timing of the speech model, ours and the reference, on one device."""
