"""From a network's output to figures: decoding of heads, suppression, matching, mAP."""
