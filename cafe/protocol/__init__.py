"""Few-shot draws, splits and the checks that keep a comparison honest."""

from cafe.protocol.draws import FewerShotsWarning, draw_few_shot

__all__ = ["FewerShotsWarning", "draw_few_shot"]
