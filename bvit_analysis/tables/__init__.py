"""Runs in, tidy pandas tables out: the only numbers that plots, notebooks and reports show.

The unit of every comparison is the run. Float runs are the teacher's: shown, never compared.
"""

from __future__ import annotations

from bvit_analysis.tables.ablation import ablation_table as ablation_table
from bvit_analysis.tables.ablation import comparability as comparability
from bvit_analysis.tables.ablation import finding as finding
from bvit_analysis.tables.ablation import scale_table as scale_table
from bvit_analysis.tables.ablation import verdict_table as verdict_table
from bvit_analysis.tables.channels import channel_entropy as channel_entropy
from bvit_analysis.tables.channels import channel_sites as channel_sites
from bvit_analysis.tables.channels import channel_steps as channel_steps
from bvit_analysis.tables.evidence import run_table as run_table
from bvit_analysis.tables.frames import LAST_HALF as LAST_HALF
from bvit_analysis.tables.frames import flip_counts as flip_counts
from bvit_analysis.tables.frames import flip_totals as flip_totals
from bvit_analysis.tables.frames import late_by_site as late_by_site
from bvit_analysis.tables.frames import late_rows as late_rows
from bvit_analysis.tables.frames import mean_over_sites as mean_over_sites
from bvit_analysis.tables.frames import place as place
from bvit_analysis.tables.frames import scalar_frame as scalar_frame
from bvit_analysis.tables.frames import site_frame as site_frame
from bvit_analysis.tables.frames import site_summary as site_summary
from bvit_analysis.tables.frames import weight_sites as weight_sites
from bvit_analysis.tables.metrics import FLOAT as FLOAT
from bvit_analysis.tables.metrics import METRICS as METRICS
from bvit_analysis.tables.metrics import RECIPE_ORDER as RECIPE_ORDER
from bvit_analysis.tables.metrics import Metric as Metric
from bvit_analysis.tables.metrics import metric as metric
from bvit_analysis.tables.metrics import ordered as ordered
from bvit_analysis.tables.selection import Runs as Runs
from bvit_analysis.tables.selection import as_runs as as_runs
from bvit_analysis.tables.selection import binary_runs as binary_runs
from bvit_analysis.tables.selection import close_ups as close_ups
from bvit_analysis.tables.selection import describe_runs as describe_runs
from bvit_analysis.tables.selection import in_order as in_order
from bvit_analysis.tables.selection import load_runs as load_runs
from bvit_analysis.tables.selection import recipe_of as recipe_of
