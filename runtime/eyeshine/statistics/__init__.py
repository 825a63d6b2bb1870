"""Numbers about where a model looks: of each head's attention, and of maps among each other and against a region.

Nothing is intervened on: everything is read from signals and maps that are there. No paper prints formulas for these;
the definitions are ours and stand at the functions.
"""

from __future__ import annotations

from eyeshine.statistics.distribution import distance, entropy_bits
from eyeshine.statistics.heads import HeadStatistics, head_statistics
from eyeshine.statistics.maps import agreement, consistency, overlap, share_inside
from eyeshine.statistics.ranks import rank_correlation

__all__ = [
    "HeadStatistics",
    "agreement",
    "consistency",
    "distance",
    "entropy_bits",
    "head_statistics",
    "overlap",
    "rank_correlation",
    "share_inside",
]
