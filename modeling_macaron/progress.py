"""Progress bars that read well for one sequence and for millions."""

from __future__ import annotations

from tqdm.auto import tqdm


def progress_bar(what: str, total: int | None = None, *, verbose: bool = True) -> tqdm:
    """Make a progress bar.

    Parameters
    ----------
    what : str
        What is counted, in the plural.
    total : int, optional
        How many there are, where that is known beforehand.
    verbose : bool
        Whether it is shown.

    Returns
    -------
    tqdm
        A context manager; `update(n)` counts.
    """
    shape = f"{what}: {{n:,.0f}} [{{elapsed}}, {{rate_noinv_fmt}}]"
    if total:
        count = "{n:,.0f} of {total:,.0f}"
        shape = f"{what}: {{percentage:3.0f}}%|{{bar}}| {count} [{{elapsed}}<{{remaining}}, {{rate_noinv_fmt}}]"
    return tqdm(total=total or None, unit="", unit_scale=True, bar_format=shape, disable=not verbose)
