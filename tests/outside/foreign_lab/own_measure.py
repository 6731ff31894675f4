"""A measure of the lab's own: how much larger the largest row of a weight is than the mean row."""

from bvit_analysis.instruments import Instrument, Measure, Rows


class RowSpread(Instrument):
    """max_c ||w_c|| / mean_c ||w_c|| over the rows c of each latent weight."""

    measures = (
        Measure(
            name="row_spread",
            kind="weight",
            words="spread of row norms",
            unit="largest / mean",
            low=1.0,
            null=1.0,
            null_words="rows of one norm",
        ),
    )

    def record(self, rows: Rows) -> None:
        for site_id, site in self.watched.weights.items():
            norms = site.latent.detach().flatten(1).norm(dim=1)
            rows.put(site_id, row_spread=norms.max() / norms.mean())
