"""Under which licence each corpus comes and where from, said before anything of it is read. None is downloaded by us."""

from __future__ import annotations

from typing import NamedTuple


class Source(NamedTuple):
    """Licence of a corpus, and the address where its owners give it."""

    licence: str
    address: str


SOURCES = {
    "chaosnli": Source("CC BY-NC 4.0", "https://github.com/easonnie/ChaosNLI"),
    "goemotions": Source("Apache-2.0", "https://github.com/google-research/google-research/tree/master/goemotions"),
    "crema_d": Source("ODbL 1.0", "https://github.com/CheyneyComputerScience/CREMA-D"),
    "msp_podcast": Source(
        "MSP-Podcast academic licence: the corpus must not be passed on",
        "https://lab-msp.com/MSP/MSP-Podcast.html",
    ),
    "mini": Source("made by this program; no restriction", ""),
}
